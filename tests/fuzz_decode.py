"""Fuzz the decoder with atheris, which follows the branches of the library; `scripts/fuzz` starts this.

Takes libFuzzer's arguments: the folder for new inputs, folders of seeds, `-max_total_time=SECONDS`.
"""

import sys

import atheris

with atheris.instrument_imports(include=["pillar.pubsub"]):
    from fuzz_target import check


def main() -> None:
    """Runs until the time is over, or an input breaks a promise: that is then printed and kept as crash-<sha1>."""
    # libFuzzer merges in processes of its own, started by this word through a shell.
    sys.argv[0] = f"{sys.executable} {sys.argv[0]}"
    atheris.Setup(sys.argv, lambda data: check(data) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
