"""Call git. Nothing here changes a person's checkout or branch."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

from cnn_core.locks import temporary_folder
from tasks.engine.runtime import OF_A_HOOK

NO_COMMIT = "0" * 40
EXPERIMENT_TRASH = ".dvc/tmp"  # `dvc exp save` commits a file of its own there


def git(root: Path, *command: str, text: str | None = None, env: Mapping[str, str] | None = None) -> str:
    """Run ``git -C root command`` with ``text`` as its input; what it prints, without the last line end.

    Raises:
        ValueError: git refused; the message has its reason.
    """
    inherited = {key: value for key, value in os.environ.items() if key not in OF_A_HOOK}
    done = subprocess.run(
        ["git", "-C", str(root), *command],
        input=text,
        env={**inherited, **(env or {})},
        capture_output=True,
        text=True,
        errors="surrogateescape",  # names and files of any encoding
        check=False,
    )
    if done.returncode:
        raise ValueError(f"git {' '.join(command[:2])}: {' '.join(done.stderr.split()) or 'failed'}")
    return done.stdout.removesuffix("\n")


def resolve(root: Path, revision: str) -> str:
    """The commit of a branch, tag, commit or DVC experiment of that name.

    Raises:
        ValueError: there is none of that name.
    """
    experiments = git(root, "for-each-ref", "--format=%(objectname) %(refname)", "--sort=-committerdate", "refs/exps")
    for line in experiments.splitlines():
        commit, _, ref = line.partition(" ")
        if ref.count("/") == 4 and ref.rpartition("/")[2] == revision:  # refs/exps/ab/cdef…/NAME
            return commit
    try:
        return git(root, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    except ValueError:
        raise ValueError(f"{revision!r} is no commit, branch, tag or experiment here (`dvc exp list -A`)") from None


def experiment_of(root: Path, commit: str) -> str:
    """The name of the DVC experiment whose commit this is; empty where it is none."""
    refs = git(root, "for-each-ref", "--points-at", commit, "--format=%(refname)", "refs/exps").splitlines()
    return next((ref.rpartition("/")[2] for ref in refs if ref.count("/") == 4), "")


def commit_tree(root: Path, tree: str, parents: Sequence[str], message: str) -> str:
    """Make a commit, which no branch contains yet; its hash."""
    options = [word for parent in parents for word in ("-p", parent)]
    return git(root, "commit-tree", tree, *options, text=message, env=identity(root))


def tree_of(root: Path, commit: str) -> str:
    """The tree of a commit, without the file that `dvc exp save` adds for itself. The checkout's file stays."""
    # forced, because a later `dvc exp save` may have left other content in the checkout
    return _index_tree(root, commit, ["rm", "-rq", "--force", "--cached", "--ignore-unmatch", "--", EXPERIMENT_TRASH])


def working_tree(root: Path) -> str:
    """The tree of HEAD's files and ``dvc.lock`` as they are in the checkout, whose index stays as it is."""
    return _index_tree(root, "HEAD", ["add", "-u"], ["add", "--", "dvc.lock"])


def with_file(root: Path, tree: str, path: str, text: str) -> str:
    """The tree with another content of one file, named from ``root``, which may be a subfolder of the repository."""
    path = git(root, "rev-parse", "--show-prefix") + path
    blob = git(root, "hash-object", "-w", "--stdin", text=text)
    return _index_tree(root, tree, ["update-index", "--add", "--cacheinfo", f"100644,{blob},{path}"])


def _index_tree(root: Path, start: str, *commands: Sequence[str]) -> str:
    with temporary_folder() as folder:
        env = {"GIT_INDEX_FILE": str(folder / "index")}
        git(root, "read-tree", start, env=env)
        for command in commands:
            git(root, *command, env=env)
        return git(root, "write-tree", env=env)


def identity(root: Path) -> dict[str, str]:
    """Variables that name an author where git knows none, as on a server; empty where git knows one."""
    try:
        git(root, "var", "GIT_COMMITTER_IDENT")
        return {}
    except ValueError:
        author = {"NAME": "Gridflow", "EMAIL": "gridflow@localhost"}
        return {f"GIT_{role}_{key}": value for role in ("AUTHOR", "COMMITTER") for key, value in author.items()}


def make_tag(root: Path, name: str, commit: str, message: str) -> str:
    """Make an annotated tag as an object that no reference names yet; its hash."""
    env = identity(root)
    tagger = git(root, "var", "GIT_COMMITTER_IDENT", env=env)
    return git(root, "mktag", text=f"object {commit}\ntype commit\ntag {name}\ntagger {tagger}\n\n{message}\n", env=env)


def update_refs(root: Path, lines: Sequence[str]) -> None:
    """Apply all of these lines of ``git update-ref --stdin``, or none.

    Raises:
        ValueError: a reference is not what a line expects, because somebody else has just changed it.
    """
    git(root, "update-ref", "--stdin", text="\n".join(["start", *lines, "prepare", "commit"]) + "\n")


def move_branch(root: Path, branch: str, commit: str) -> str:
    """The line for `update_refs` that moves a branch (or makes it) to a commit, if nobody moves it meanwhile."""
    before = git(root, "for-each-ref", "--format=%(objectname)", f"refs/heads/{branch}") or NO_COMMIT
    return f"update refs/heads/{branch} {commit} {before}"


USER_OF_URL = re.compile(r"(?<=://)[^/@\s]+@")
