# SPDX-License-Identifier: Apache-2.0
"""The command line's root: parses arguments and turns errors into exit codes.

Knows which nouns there are. Must never do a command's work or read the environment itself. `__main__` calls `main`.
Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import typer

from vpccni import __version__
from vpccni.cli import doctor, instance_types, lab, maxpods, pcap, selftest, settings, sim, trace, why
from vpccni.cli.output import EXIT_BAD_INPUT, Session, refuse, session
from vpccni.errors import VpcCniError

app = typer.Typer(
    name="vpccni",
    help="The Amazon VPC CNI for Kubernetes, with a VPC in a box.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(lab.app, name="lab")
app.command("max-pods", context_settings={"help_option_names": ["-h", "--help"]})(maxpods.max_pods)
app.command("instance-types")(instance_types.instance_types)
app.add_typer(settings.app, name="settings")
app.command("why")(why.why)
app.command("doctor")(doctor.doctor)
app.command("sim")(sim.sim)
app.command("selftest")(selftest.selftest)
app.command("trace")(trace.trace)
app.command("pcap")(pcap.pcap)


@app.callback(invoke_without_command=True)
def root(version: Annotated[bool, typer.Option("--version", help="print the version")] = False) -> None:
    """The Amazon VPC CNI for Kubernetes, with a VPC in a box."""
    if version:
        sys.stdout.write(f"vpccni {__version__}\n")
        raise typer.Exit


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def ipamd(ctx: typer.Context) -> None:
    """Run the node daemon: the warm pool of VPC addresses and the plugin's other half.

    Settings come from environment variables with the names of the Amazon VPC CNI (WARM_ENI_TARGET, ...).
    """
    from vpccni.ipamd.program import main as run

    raise typer.Exit(run(ctx.args, session(ctx).environ))


@app.command("lab-daemon", hidden=True)
def lab_daemon(ctx: typer.Context) -> None:
    """The process behind a lab; `vpccni lab up` starts it."""
    from vpccni.lab.daemon import main as run

    raise typer.Exit(run(ctx.args, session(ctx).environ))


def main(argv: Sequence[str], environ: Mapping[str, str]) -> int:
    """Run one command line and return its exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(list(argv), prog_name="vpccni", standalone_mode=False, obj=Session(environ))
    except VpcCniError as error:
        return refuse(error)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return _usage(error)
    return code if isinstance(code, int) else 0


def _usage(error: Exception) -> int:
    """What the argument parser says about bad arguments; anything else is a fault of ours and shows its trace."""
    show, exit_code = getattr(error, "show", None), getattr(error, "exit_code", EXIT_BAD_INPUT)
    if type(error).__name__ == "Abort":
        return 130
    if show is None:
        raise error
    show()
    return int(exit_code)
