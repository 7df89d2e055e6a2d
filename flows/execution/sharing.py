"""Share a run with other machines: its outputs through a DVC remote, its experiment through a git remote.

Nothing is shared unless runtime.yaml names remotes. Credentials come from the environment, ``.dvc/config.local`` or a
Prefect Secret block. They are removed from what DVC and git print before anybody sees it.
"""

from __future__ import annotations

import configparser
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote

from prefect import get_run_logger, task
from prefect.blocks.system import Secret
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.states import Completed, Failed

from flows.execution.failures import BACK_OFF, can_heal
from flows.execution.processes import ProcessGroups
from flows.repository.git import USER_OF_URL, git
from flows.repository.graph import StageNode
from flows.repository.workspace import dvc_remotes, experiment_ref
from flows.ui import notify
from tasks.engine.runtime import Runtime, load_runtime, main_checkout

RETRIES = 2
# Words of failures that no second attempt mends: credentials, rights, names.
REFUSED = re.compile(
    r"denied|forbidden|unauthori[sz]ed|authenticat|credential|does ?n[o']t exist|NoSuchBucket|InvalidAccessKeyId"
    r"|SignatureDoesNotMatch|requires '|not a valid|was found|another experiment|neither locally nor on remote",
    re.IGNORECASE,
)
SECRET_NAMES = re.compile(r"secret|token|passw|key|credential|connection_string", re.IGNORECASE)
SHORTEST_SECRET = 6  # characters; shorter values of such variables are words like "true"
LONGEST_REASON = 300  # characters
# Lines of DVC that help a person at a terminal only, or that speak of stages that have not run yet.
NOISE = ("Having any troubles?", "To push cached outputs", "WARNING: No file hash info found")
# What DVC prints when a push sent only a part, though its exit code is 0, and what that means.
INCOMPLETE = {
    "has diverged": "it holds another experiment of that name already",
    "do not exist neither locally": "some of the outputs are neither locally nor on remote",
}


def check_sharing(root: Path) -> None:
    """Check before the first stage that the run can be shared as runtime.yaml says, by the checkout's remotes.

    Raises:
        ValueError: there is no remote of a name, or the Secret block is missing or holds something else.
    """
    runtime = load_runtime()
    if not (runtime.pull_from or runtime.push_to or runtime.push_experiment_to):
        return
    _environment(runtime)  # an error of the Secret block is raised here
    if runtime.pull_from or runtime.push_to:
        remotes = dvc_remotes(root)
        _check_remote("pull_from", runtime.pull_from, remotes, "DVC remote", "dvc remote add")
        _check_remote("push_to", runtime.push_to, remotes, "DVC remote", "dvc remote add")
    remotes = set(git(root, "remote").split())
    _check_remote("push_experiment_to", runtime.push_experiment_to, remotes, "git remote", "git remote add")


def pull(root: Path, stages: Sequence[str]) -> None:
    """Fetch outputs that the worktree's dvc.lock names and DVC's cache lacks, so that they are not computed again.

    A remote that does not answer is a warning, because the stages can do without it.
    """
    runtime = load_runtime()
    if not runtime.pull_from:
        return
    targets = ["--with-deps", *stages] if stages else []
    command = _dvc("pull", "--force", "--allow-missing", "--remote", runtime.pull_from, *targets)
    code, lines = _call(root, command, _environment(runtime))
    for line in lines:
        get_run_logger().info(line)
    if code:
        get_run_logger().warning("nothing was fetched from the DVC remote %s: %s", runtime.pull_from, _reason(lines))


def share(root: Path, nodes: Sequence[StageNode], experiment: str | None = None) -> str:
    """Send a run's results to the remotes that runtime.yaml names: first the data, then the experiment.

    Returns:
        A sentence where this failed, else an empty text. The run's results are kept here in any case.
    """
    try:
        reason = _send(load_runtime(), root, nodes, experiment)
    except ValueError as error:  # runtime.yaml or a remote was changed while the stages ran
        reason = str(error)
    if not reason:
        return ""
    location = f"is the experiment {experiment} and in DVC's cache" if experiment else "is in DVC's cache"
    text = f"not shared: {reason}. The result {location}; the same run again, with nothing to compute, sends it."
    notify.post("gridflow.run.not_shared", text)
    return text


@task(
    name="share",
    task_run_name="share {what}",
    cache_policy=NO_CACHE,
    retries=RETRIES,
    retry_delay_seconds=BACK_OFF(RETRIES),
    retry_condition_fn=can_heal,
    persist_result=False,
)
def transfer(what: str, command: Sequence[str], root: Path) -> State:
    """Run one command of DVC. As with stages, it is tried again only where that may help."""
    code, lines = _call(root, _dvc(*command), _environment(load_runtime()))
    for line in lines:
        get_run_logger().info(line)
    gaps = [meaning for words, meaning in INCOMPLETE.items() if any(words in line for line in lines)]
    if code == 0 and not gaps:
        return Completed(message=lines[-1] if lines else what)
    reason = "; ".join(gaps) or _reason(lines)
    return Failed(message=f"{'user' if REFUSED.search(reason) else 'transient'}: {reason}")


def _send(runtime: Runtime, root: Path, nodes: Sequence[StageNode], experiment: str | None) -> str:
    """Send data and experiment; a sentence about the remote that refused, or an empty text."""
    if remote := runtime.push_to:
        reason = _transfer(f"data to {remote}", ["push", "--remote", remote, *_targets(root, nodes)], root)
        if reason:
            return f"the DVC remote {remote} did not take the data: {reason}"
    if (remote := runtime.push_experiment_to) and experiment:
        command = ["exp", "push", "--no-cache", remote, experiment_ref(git(root, "rev-parse", "HEAD"), experiment)]
        # in the checkout, because relative addresses of remotes start there
        if reason := _transfer(f"experiment to {remote}", command, main_checkout(root)):
            return f"the git remote {remote} did not take the experiment: {reason}"
    return ""


def _transfer(what: str, command: Sequence[str], root: Path) -> str:
    state = transfer(what, command, root, return_state=True)
    return "" if state.is_completed() else re.sub(r"^(user|transient): ", "", state.message or "it failed")


def _targets(root: Path, nodes: Sequence[StageNode]) -> list[str]:
    pointers = {f"{path}.dvc" for node in nodes for path in node.inputs}
    return [*(node.name for node in nodes), *sorted(path for path in pointers if (root / path).is_file())]


def _check_remote(key: str, name: str, remotes: set[str], kind: str, add: str) -> None:
    if name and name not in remotes:
        choice = f"there is {', '.join(sorted(remotes))}" if remotes else "there is none"
        name = USER_OF_URL.sub("***@", name)
        raise ValueError(f"runtime.{key}: {name} is no {kind} here ({choice}); `{add} {name} …` makes one")


def _environment(runtime: Runtime) -> dict[str, str]:
    """The environment of a transfer: it has the Secret block's variables, and nobody is asked for a password.

    Raises:
        ValueError: there is no such block, or it holds something else than texts by name.
    """
    quiet = {"DVC_NO_ANALYTICS": "1", "GIT_TERMINAL_PROMPT": "0"}
    secret = _secret(runtime.sharing_secret) if runtime.sharing_secret else {}
    return {**os.environ, **quiet, **secret}


def _secret(name: str) -> Mapping[str, str]:
    try:
        block = Secret.load(name)
    except ValueError:
        raise ValueError(f"runtime.sharing_secret: the Prefect server has no Secret block {name}") from None
    assert isinstance(block, Secret)  # and no coroutine: this is no asynchronous code
    variables = block.get()
    if not isinstance(variables, Mapping) or not all(isinstance(value, str) for value in variables.values()):
        raise ValueError(f'the Secret block {name} must hold texts by name: {{"AWS_ACCESS_KEY_ID": "…", …}}')
    return variables


def _dvc(*words: str) -> list[str]:
    return [sys.executable, "-m", "dvc", "--wait-for-lock", *words]


def _call(root: Path, command: Sequence[str], env: Mapping[str, str]) -> tuple[int, list[str]]:
    """Run a command, which ends with its caller and can ask nobody; its exit code and its lines, without secrets."""
    groups = ProcessGroups()
    try:
        process = groups.start(command, cwd=root, env=env)
        printed, _ = process.communicate()
        groups.forget(process)
    finally:
        groups.end_all()
    lines = map(str.strip, _clean(printed, root, env).splitlines())
    return process.returncode, [line for line in lines if line and not line.startswith(NOISE)]


def _clean(text: str, root: Path, env: Mapping[str, str]) -> str:
    """Mask every value that the environment or DVC's settings hold under the name of a secret."""
    settings = configparser.ConfigParser(interpolation=None, strict=False)
    settings.read([root / ".dvc" / "config", root / ".dvc" / "config.local"], encoding="utf-8")
    options = [option for section in settings.sections() for option in settings.items(section)]
    secrets = {value for key, value in [*env.items(), *options] if SECRET_NAMES.search(key)}
    secrets |= {quote(value, safe="") for value in secrets}  # as addresses write them
    for value in sorted((value for value in secrets if len(value) >= SHORTEST_SECRET), key=len, reverse=True):
        text = text.replace(value, "***")
    return USER_OF_URL.sub("***@", text)


def _reason(lines: Sequence[str]) -> str:
    """The reason that a command gave: its lines of errors, or else its last line."""
    errors = [re.sub("^ERROR: (unexpected error - )?", "", line) for line in lines if line.startswith("ERROR: ")]
    errors = errors or list(lines[-1:])
    return (": ".join(dict.fromkeys(errors)) or "no reason was given")[:LONGEST_REASON].rstrip(" .")
