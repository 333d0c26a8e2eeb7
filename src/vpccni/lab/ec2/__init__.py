# SPDX-License-Identifier: Apache-2.0
"""The EC2 Query API over a `Cloud`, for unmodified SDKs and the AWS CLI.

Knows the wire: parameters in, XML out, both by botocore's service model, paging, filters, DryRun, admission. Must never
decide what EC2 allows: that is `lab.cloud`. The lab's daemon serves `app.make_app` on loopback and in the namespaces.
"""
