# SPDX-License-Identifier: Apache-2.0
"""Branch interfaces on trunks, and permissions to use an interface: what security groups for pods need of EC2.

Knows the associations and their rules. Must never know VLANs on a wire: a branch is an interface whose frames ride on
its trunk, and whoever builds the wire looks here. Part of `Cloud`.
"""

from __future__ import annotations

from collections.abc import Sequence

from vpccni.lab.cloud.errors import ApiError, combination, invalid, not_found
from vpccni.lab.cloud.interfaces import InterfaceOperations, in_use
from vpccni.lab.cloud.resources import Eni, Permission, TrunkAssociation

VLANS = range(1, 4095)  # IEEE 802.1Q
PERMISSIONS = ("INSTANCE-ATTACH", "EIP-ASSOCIATE")


class TrunkOperations(InterfaceOperations):
    """Associate, disassociate, permit."""

    def associate_trunk_interface(
        self,
        branch_id: str,
        trunk_id: str,
        *,
        vlan_id: int | None = None,
        gre_key: int | None = None,
        client_token: str = "",
    ) -> TrunkAssociation:
        """AssociateTrunkInterface: the branch becomes of type `branch`. The same token answers with the same one."""
        self.settle()
        request = (branch_id, trunk_id, vlan_id, gre_key)
        before = self.tokens.get(("AssociateTrunkInterface", client_token)) if client_token else None
        if before is not None and before[1] in self.trunks:
            if before[0] != request:
                raise ApiError("IdempotentParameterMismatch", "The token was used with other arguments.")
            return self.trunks[before[1]]
        branch, trunk = self.eni(branch_id), self.eni(trunk_id)
        self._check_association(branch, trunk, vlan_id, gre_key)
        made = TrunkAssociation(self.new_id("trunk-assoc"), self.next_serial(), trunk_id, branch_id, vlan_id, gre_key)
        self.trunks[made.association_id] = made
        if client_token:
            self.tokens["AssociateTrunkInterface", client_token] = (request, made.association_id)
        branch.interface_type = "branch"
        return made

    def _check_association(self, branch: Eni, trunk: Eni, vlan_id: int | None, gre_key: int | None) -> None:
        if (vlan_id is None) == (gre_key is None):
            raise combination("You must specify exactly one of vlanId and greKey.")
        if vlan_id is not None and vlan_id not in VLANS:
            raise invalid(f"Value ({vlan_id}) for parameter vlanId is invalid.")
        if trunk.interface_type != "trunk":
            raise invalid(f"Network interface '{trunk.eni_id}' is not of type trunk.")
        if branch.interface_type not in ("interface", "branch"):
            raise invalid(f"Network interface '{branch.eni_id}' of type {branch.interface_type} cannot be a branch.")
        if branch.attachment is not None or any(one.branch_id == branch.eni_id for one in self.trunks.values()):
            raise in_use(branch)
        if branch.zone != trunk.zone:
            raise combination("The branch and the trunk are not in the same availability zone.")
        siblings = [one for one in self.trunks.values() if one.trunk_id == trunk.eni_id]
        if any((one.vlan_id, one.gre_key) == (vlan_id, gre_key) for one in siblings):
            raise invalid(f"The trunk '{trunk.eni_id}' already has a branch with this VLAN id or GRE key.")
        limits = self.limits_for(trunk)
        most = self.branches_of(limits.instance_type) if limits is not None else None
        if most is not None and len(siblings) >= most:
            raise ApiError("BranchInterfaceLimitExceeded", f"The trunk '{trunk.eni_id}' has all {most} branches.")

    def disassociate_trunk_interface(self, association_id: str) -> None:
        """DisassociateTrunkInterface: the branch is an ordinary interface again."""
        self.settle()
        if association_id not in self.trunks:
            raise not_found("trunk-assoc", association_id)
        gone = self.trunks.pop(association_id)
        if gone.branch_id in self.enis:
            self.enis[gone.branch_id].interface_type = "interface"

    def trunk_associations(self, association_ids: Sequence[str] = ()) -> list[TrunkAssociation]:
        """Those of the given ids (all must exist), or all, in order of creation."""
        for association_id in association_ids:
            if association_id not in self.trunks:
                raise not_found("trunk-assoc", association_id)
        return [self.trunks[one] for one in dict.fromkeys(association_ids)] or list(self.trunks.values())

    def create_network_interface_permission(
        self, eni_id: str, permission: str, *, account_id: str = "", service: str = ""
    ) -> Permission:
        """CreateNetworkInterfacePermission: for one account or one service."""
        self.settle()
        self.eni(eni_id)
        if permission not in PERMISSIONS:
            raise invalid(f"Value ({permission}) for parameter permission is invalid.")
        if bool(account_id) == bool(service):
            raise combination("You must specify exactly one of awsAccountId and awsService.")
        made = Permission(self.new_id("eni-perm"), self.next_serial(), eni_id, account_id, service, permission)
        self.permissions[made.permission_id] = made
        return made

    def permission(self, permission_id: str) -> Permission:
        """A permission or its NotFound."""
        if permission_id not in self.permissions:
            raise not_found("eni-perm", permission_id)
        return self.permissions[permission_id]

    def delete_network_interface_permission(self, permission_id: str, *, force: bool = False) -> None:
        """DeleteNetworkInterfacePermission: while its account has the interface attached only by force."""
        self.settle()
        found = self.permission(permission_id)
        eni = self.enis[found.eni_id]
        if eni.attachment is not None and found.account_id == self.account_id and not force:
            raise ApiError("OperationNotPermitted", f"The interface '{eni.eni_id}' is attached by that account.")
        del self.permissions[permission_id]
