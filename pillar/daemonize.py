"""Become a daemon, and let the caller's `--daemon` return only when the agent is ready.

The caller's process stays and waits for one line of pillar.ready from the daemon: it then exits with the
status in it, so `agent --daemon && next` starts `next` on a running agent and an error is seen at once.
"""

from __future__ import annotations

import os
import signal
import sys

from pillar import ready


def daemonize(name: str) -> int | None:
    """Fork off. Returns None in the daemon, and in the caller's process the status to exit with.

    To be called before anything is opened: every descriptor but the standard ones is closed in the daemon, and
    its directory is /. Files it makes are private (umask 0o077).
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return _wait(name, reader, child)
    os.close(reader)
    # Imported here: only daemons need it.
    import daemon

    # SIGTERM is the loop's; python-daemon would raise SystemExit in the middle of something.
    context = daemon.DaemonContext(
        umask=0o077,
        files_preserve=[writer],
        detach_process=True,
        signal_map={
            signal.SIGTSTP: signal.SIG_IGN,
            signal.SIGTTIN: signal.SIG_IGN,
            signal.SIGTTOU: signal.SIG_IGN,
        },
    )
    context.open()
    os.set_inheritable(writer, False)
    ready.use(writer)
    return None


def _wait(name: str, reader: int, child: int) -> int:
    with os.fdopen(reader, "rb") as pipe:
        line = pipe.read()
    os.waitpid(child, 0)  # the first of python-daemon's forks; it ended long ago
    said = ready.parse(line)
    if said is None:
        print(f"{name}: died before it was ready; its log says more", file=sys.stderr)
        return 1
    status, text = said
    if text:
        print(text, file=sys.stderr if status else sys.stdout)
    return status
