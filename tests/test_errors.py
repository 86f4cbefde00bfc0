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
