"""Crash points: name each state-changing call of a program, and kill or fail it at one of them.

    with Control(directory, {"hello": "hello.py"}) as control:            # agent name: an argument that its process has
        control.begin(Plan(root, labels={uuid: "<app>"}))                 # record only
        subprocess.run([sys.executable, "hello.py", root], env=os.environ | control.environment())
        for point in points(control.calls()):                             # hello rename /run/hello/Greeting/a.json 1
            control.begin(Plan(root, faults=(Fault(point, KILL),)))
            ...run it again: it dies by SIGKILL right before that call; control.fired() says whether it came there

A point is agent, call, path and occurrence (`Point`). The path is below the root, labels stand for what the caller
knows (app UUIDs, hashes), marks for what chance made (`<uuid>`, `<hash>`, `<number>`, `<tmp>`). The occurrence counts
equal calls with equal paths in one process since `begin`, or since the fault before it fired: each further fault of
a plan counts from there, in whatever process is that agent then. In a plan whose faults are armed together each counts
from `begin`.

`begin` may be called while the agents run: counts start anew, so one device serves for many runs.

The agents run under a library in C (shim.c), which `Control` compiles: it needs `cc` or `gcc`. It sees what goes
through the C library, as all of Python does, and nothing else: programs that are linked statically or make their
system calls themselves (Go) are not seen, and neither are children that an agent starts.
"""

from pillar.crashpoints.control import Control, NoCompiler
from pillar.crashpoints.plan import KILL, STOP, Action, Fault, Plan, delay, fails, fails_for_good
from pillar.crashpoints.points import Call, Point, points

__all__ = [
    "KILL",
    "STOP",
    "Action",
    "Call",
    "Control",
    "Fault",
    "NoCompiler",
    "Plan",
    "Point",
    "delay",
    "fails",
    "fails_for_good",
    "points",
]
