"""Processes of a run that were ended from outside: what torch says of it, in words. Imports nothing heavy."""

import re

MEMORY = "the system may have lacked memory (its own log, such as dmesg, tells)"

_WORKER = re.compile(
    r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed by signal: (.*?)\.? *$|exited unexpect)", re.M
)
_PEER = re.compile(
    r"gloo.*(closed by peer|reset by peer|Broken pipe|Connection refused)|NCCL.*(remote process|system error|peer)"
    r"|ProcessGroup.*(timeout|terminated)|Connection was likely closed|Broken pipe.*TCPStore|TCPStore",
    re.I | re.S,
)


def explain(error: BaseException | None) -> str:
    """A line on an error that followed from the end of another process of the run; empty on any other error."""
    if not isinstance(error, RuntimeError):
        return ""
    if worker := _WORKER.search(str(error)):
        how = f" ({worker[2]})" if worker[2] else ""
        return (
            f"data-loading worker {worker[1]} was ended from outside{how}: {MEMORY}; fewer data.num_workers, or a "
            "smaller data.batch_size, need less"
        )
    if _PEER.search(str(error)):
        return f"another process of the run has ended; if it said nothing, {MEMORY}"
    return ""
