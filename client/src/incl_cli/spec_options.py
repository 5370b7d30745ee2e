"""The options of `incl run` and `incl rerun` that describe an experiment, and what they change in its file."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem

if TYPE_CHECKING:
    from incl_shared.specfile import Override, SpecDocument

_ENV = re.compile(r"^[A-Za-z_][A-Za-z0-9_]*$")
_PLAIN: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("nodes", ("nodes",)),
    ("cpu", ("resources", "cpu")),
    ("memory", ("resources", "memory")),
    ("gpu", ("resources", "gpu")),
    ("priority", ("priority",)),
    ("max_duration", ("max_duration",)),
)
DATA_KEYS = ("source", "snapshot", "nfs", "bucket", "scratch", "size", "target", "mount")
_DATA_HINT = "--data snapshot=chest-ct-v3,mount=/data"
_TEXT = ("name", "image", "instance", "notes")


def add_spec_options(parser: argparse.ArgumentParser) -> None:
    """Declare them; none has a default, so that only what was typed overrides the file."""
    what = parser.add_argument_group("what it is")
    what.add_argument("--name", help="a name for people")
    what.add_argument("--project", help="another project than the usual one")
    what.add_argument("--tag", action="append", metavar="TAG", help="may be repeated")
    what.add_argument("--notes", metavar="TEXT", help="why you run it")
    what.add_argument("--metric", action="append", metavar="NAME:max|min", help="a metric of interest, with its goal")
    needs = parser.add_argument_group("what it needs")
    needs.add_argument("--nodes", metavar="N", help="machines that work together (1)")
    needs.add_argument("--cpu", metavar="CORES", help="cores per node; fractions are allowed")
    needs.add_argument("--memory", metavar="SIZE", help="memory per node: 8GB, 512MiB")
    needs.add_argument("--gpu", metavar="N", help="GPUs per node")
    needs.add_argument("--instance", metavar="TYPE", help="a machine type of a cloud")
    needs.add_argument("--spot", action=argparse.BooleanOptionalAction, help="preemptible machines (with --instance)")
    needs.add_argument("--image", metavar="IMAGE", help="a container image to run in")
    needs.add_argument("--no-image", action="store_true", help="on the machine itself, whatever the file says")
    needs.add_argument(
        "--sandbox", action=argparse.BooleanOptionalAction, help="isolate with bubblewrap, without an image"
    )
    gets = parser.add_argument_group("what it gets and keeps")
    gets.add_argument(
        "-e", "--env", action="append", metavar="K=V", help="an environment variable; K alone takes yours"
    )
    gets.add_argument("--secret", action="append", metavar="NAME", help="a stored secret, as a variable")
    gets.add_argument(
        "--data",
        action="append",
        metavar="DATA",
        help="a folder to read below $INCL_DATA_DIR, DIR[:TARGET], or snapshot=NAME,mount=/data",
    )
    gets.add_argument("--output", action="append", metavar="GLOB", help="files to keep besides $INCL_OUTPUT_DIR")
    how = parser.add_argument_group("how it is run")
    how.add_argument("--priority", metavar="N", help="higher goes first (0)")
    how.add_argument("--max-duration", metavar="TIME", help="stop after this long: 90m, 2h")
    how.add_argument("--retries", metavar="N", help="further attempts when machines fail (2)")
    how.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="any key of the file: --set checkpoint.keep=best"
    )


def overrides(args: argparse.Namespace, document: SpecDocument, base: Path) -> list[Override]:
    """What the options change in a document. base: the folder that relative paths of --data start from.

    Raises:
        UsageProblem: an option that cannot be read.
    """
    from incl_shared.specfile import Override

    found: list[Override] = [
        Override(path, plain(value), f"--{option.replace('_', '-')}")
        for option, path in _PLAIN
        if (value := getattr(args, option)) is not None
    ]
    found += [Override((name,), value, f"--{name}") for name in _TEXT if (value := getattr(args, name)) is not None]
    found += [
        Override((name,), value, f"--{name}")
        for name in ("spot", "sandbox")
        if (value := getattr(args, name)) is not None
    ]
    if args.project is not None:
        found.append(Override(("project",), args.project, "--project"))
    if args.no_image:
        found.append(Override(("image",), None, "--no-image"))
    if args.retries is not None:
        if not args.retries.isdigit():
            raise UsageProblem(f"--retries needs a whole number, not {args.retries[:40]!r}")
        found.append(Override(("retry", "attempts"), int(args.retries) + 1, "--retries"))
    found += [_env(item) for item in args.env or ()]
    found += _longer(document, "secrets", args.secret, "--secret")
    found += _longer(document, "tags", args.tag, "--tag")
    found += _longer(document, "outputs", args.output, "--output")
    found += _longer(document, "data", [_data(item, base) for item in args.data or ()], "--data")
    found += [_metric(item) for item in args.metric or ()]
    found += [set_override(item, ("env",)) for item in args.set or ()]
    return found


def _longer(document: SpecDocument, key: str, more: list[Any] | None, label: str) -> list[Override]:
    """A list of the file, made longer."""
    from incl_shared.specfile import Override

    if not more:
        return []
    before = document.values.get(key)
    return [Override((key,), [*(before if isinstance(before, list) else ()), *more], label)]


def _env(item: str) -> Override:
    from incl_shared.specfile import Override

    name, equals, value = item.partition("=")
    if not _ENV.fullmatch(name):
        raise UsageProblem(f"--env {item[:60]!r}: {name[:60]!r} is not a name", hint="--env LR=0.1")
    if not equals:
        if name not in os.environ:
            raise UsageProblem(f"--env {name}: there is no such variable here", hint=f"--env {name}=VALUE")
        value = os.environ[name]
    return Override(("env", name), value, f"--env {name}")


def _metric(item: str) -> Override:
    from incl_shared.specfile import Override

    name, colon, goal = item.rpartition(":")
    if not colon or not name:
        raise UsageProblem(f"--metric {item[:60]!r} has no goal", hint=f"--metric {item[:60]}:max, or :min")
    return Override(("metrics", name), goal, f"--metric {name}")


def _data(item: str, base: Path) -> dict[str, str]:
    key, equals, _ = item.partition("=")
    if equals and key in DATA_KEYS:
        return _data_keys(item)
    source, _, target = item.partition(":")
    if not source:
        raise UsageProblem(f"--data {item[:60]!r} names no folder", hint="--data /path/to/images:images")
    path = (base / Path(source).expanduser()).resolve()
    return {"source": str(path), **({"target": target} if target else {"target": path.name or "data"})}


def _data_keys(item: str) -> dict[str, str]:
    """The keys of one entry: snapshot=chest-ct-v3,mount=/data; what they may be is checked with the file."""
    found: dict[str, str] = {}
    for part in item.split(","):
        key, equals, value = part.partition("=")
        if not equals or not value or key in found:
            raise UsageProblem(f"--data {item[:80]!r}: {part[:40]!r} is no KEY=VALUE", hint=_DATA_HINT)
        found[key] = value
    return found


def plain(value: str) -> object:
    """What was typed, as YAML reads it."""
    from incl_shared.yamltext import plain_value

    return plain_value(value)


def set_override(item: str, verbatim: tuple[str, ...]) -> Override:
    """What `--set KEY=VALUE` changes. verbatim: the mapping whose values are texts as they are typed.

    Raises:
        UsageProblem: it cannot be read.
    """
    from incl_shared.specfile import Override
    from incl_shared.yamltext import YamlProblem, plain_value

    key, equals, text = item.partition("=")
    path = tuple(key.split("."))
    if not equals or not all(path):
        raise UsageProblem(f"--set {item[:60]!r} is not KEY=VALUE", hint="--set resources.cpu=0.5")
    if path[:-1] == verbatim:
        return Override(path, text, f"--set {key}")
    try:
        value = plain_value(text)
    except YamlProblem as problem:
        raise UsageProblem(f"--set {key}: {problem.message}") from problem
    return Override(path, value, f"--set {key}")


def absolute_data(document: SpecDocument, base: Path) -> None:
    """Folders that a file names relative to itself become absolute."""
    data = document.values.get("data")
    for item in data if isinstance(data, list) else ():
        if isinstance(item, dict) and isinstance(item.get("source"), str) and "://" not in item["source"]:
            item["source"] = str((base / Path(item["source"]).expanduser()).resolve())
