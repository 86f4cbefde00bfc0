import itertools
import subprocess
import sys

import pytest

from dms_jax.errors import Interrupted, UserError, exit_on_user_error


@pytest.mark.parametrize(
    "error, status, line",
    [
        (UserError("budget 0: give\n  a positive one"), 2, "error: budget 0: give a positive one"),
        (Interrupted(7), 130, "stopped after step 7; the same command goes on from there"),
        (Interrupted(7, "go on with --resume"), 130, "go on with --resume"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_one_line_and_a_status(error, status, line, capfd):
    @exit_on_user_error
    def main():
        raise error

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == status
    assert capfd.readouterr() == ("", line + "\n")


def test_results_and_faults_pass_through():
    @exit_on_user_error
    def main(a, *, b):
        """Divide."""
        return a / b

    assert main(4, b=2) == 2
    assert main.__doc__ == "Divide."
    with pytest.raises(ZeroDivisionError):
        main(1, b=0)


LONG = """
import sys
from dms_jax.errors import exit_on_user_error

@exit_on_user_error
def main():
    print("x" * 1_000_000)
    {end}

main()
print("not reached", file=sys.stderr)
"""


@pytest.mark.parametrize("end", ["raise SystemExit(0)", "pass", "print('more')"])
@pytest.mark.parametrize("to", ["stdout", "stderr"])
def test_a_reader_who_leaves_ends_it_without_a_word(end, to):
    code = LONG.format(end=end).replace("1_000_000)", f"1_000_000, file=sys.{to})")
    program = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    read, other = (program.stdout, program.stderr) if to == "stdout" else (program.stderr, program.stdout)
    assert read is not None and other is not None
    read.read(10)
    read.close()
    said = other.read()
    other.close()
    assert program.wait(timeout=60) == 141 and said in (b"", b"more\n")


CLOSED = """
import os, sys
from dms_jax.errors import UserError, exit_on_user_error

@exit_on_user_error
def main():
    print("said")
    print("told", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        assert file.fileno() > 2
    raise UserError("no")

main()
"""


@pytest.mark.parametrize("closed", [c for n in (1, 2, 3) for c in itertools.combinations((0, 1, 2), n)])
def test_closed_streams_read_and_write_nothing(closed, tmp_path):
    shell = ["sh", "-c", 'exec "$@" ' + " ".join(f"{fd}>&-" for fd in closed), "sh"]
    command = [*shell, sys.executable, "-c", CLOSED, str(tmp_path / "file")]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 2 and (tmp_path / "file").read_text() == ""
    assert done.stdout == ("" if 1 in closed else "said\n")
    assert done.stderr == ("" if 2 in closed else "told\nerror: no\n")


def test_another_broken_pipe_is_a_fault():
    @exit_on_user_error
    def main():
        raise BrokenPipeError(32, "of a worker")

    with pytest.raises(BrokenPipeError):
        main()
