"""The command line within the process of the tests, and what it may print."""

from widescape.cli.main import main


def run(capsys, *arguments):
    """Exit code, standard output and standard error."""
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def refuse_constant(constant):
    """For `json.loads`, which would let NaN and Infinity pass."""
    raise AssertionError(f"{constant} is no JSON")
