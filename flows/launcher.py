"""The file `.venv/bin/gridflow`: make copies this one there, below the line that names the environment's Python.

The command runs the code of the checkout in whose folders it is called, as `python -m` does at a checkout's root. So a
git worktree runs its own code, and no installed package can hide it. Elsewhere it runs what PYTHONPATH names, or else
the checkout that the environment belongs to.
"""

import sys
from pathlib import Path

if __name__ == "__main__":
    here = Path.cwd()
    checkouts = (folder for folder in (here, *here.parents) if (folder / "flows" / "cli.py").is_file())
    sys.path[:1] = map(str, [folder for folder in [next(checkouts, None)] if folder])  # in place of this file's folder
    sys.path.append(str(Path(sys.prefix).parent))
    from flows.cli import main

    main()
