"""What computed a result: versions and the machine, in words."""

import platform
import sys
from importlib.metadata import PackageNotFoundError, version


def environment(*packages: str) -> dict[str, str]:
    """The Python and platform that run, and the versions of `packages` by name.

    Example:
        >>> environment("no-such-package")["no-such-package"]
        'not installed'
    """
    found = {"python": f"{sys.version.split()[0]} on {platform.system()} {platform.machine()}"}
    for name in packages:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found
