"""incl login: a token for a bus credential, and a context that says where the platform is."""

from __future__ import annotations

import argparse
import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from incl_cli.arguments import UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl login https://incl.example.org          asks for the token
  incl login https://incl.example.org --token-file token.txt --project vision
  INCL_TOKEN=… incl login https://incl.example.org"""
_TIMEOUT_S = 10.0
_LOOPBACK = ("localhost", "127.0.0.1", "::1")


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("url", help="of the gateway")
    parser.add_argument("--token", metavar="TOKEN", help="better: INCL_TOKEN, --token-file, stdin, or the prompt")
    parser.add_argument("--token-file", metavar="FILE", help="a file with the token")
    parser.add_argument("--project", help="the project to work in (the first that is yours)")
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Exchange and write."""
    from urllib.parse import urlsplit

    from incl_cli.context import Context, save_context
    from incl_cli.places import config_dir

    parts = urlsplit(args.url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise UsageProblem(
            f"{args.url[:120]!r} is not the URL of a gateway", hint="incl login https://incl.example.org"
        )
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        session.out.note("warning: http:// shows the token to everyone on the way; use https://", "yellow")
    answer = exchange(args.url.rstrip("/"), _token(args, session))
    project = _project(args, answer)
    creds = _write_creds(config_dir() / "creds" / f"{_slug(parts.netloc)}.creds", str(answer["creds"]))
    context = Context(
        urls=tuple(answer["urls"]),
        creds=str(creds),
        project=project,
        user=str(answer["user"]),
        gateway_url=args.url.rstrip("/"),
        inbox_prefix=str(answer["inbox_prefix"]),
    )
    path = save_context(context)
    if args.json:
        session.out.json(
            {"user": context.user, "project": project, "projects": answer["projects"], "context": str(path)}
        )
    else:
        session.out.note(f"you are {context.user} in project {project}; written to {path}")
    return 0


def _token(args: argparse.Namespace, session: Session) -> str:
    if args.token and args.token_file:
        raise UsageProblem("--token and --token-file exclude each other")
    if args.token_file:
        try:
            token = Path(args.token_file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageProblem(f"cannot read {args.token_file}", cause=str(error)) from None
    elif args.token or os.environ.get("INCL_TOKEN"):
        token = args.token or os.environ["INCL_TOKEN"]
    elif sys.stdin.isatty():
        import getpass

        token = getpass.getpass("token: ", stream=session.out.err)
    else:
        token = sys.stdin.read(4096)
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise UsageProblem("there is no token", hint="incl token create makes one, where you are logged in")
    return token


def exchange(url: str, token: str) -> dict[str, Any]:
    """What the gateway gives for a token: user, projects, urls, creds, inbox_prefix, expires.

    Raises:
        UnavailableError: no gateway answers there.
        DeniedError: the token is not good.
    """
    import json
    import urllib.error
    import urllib.request

    from incl_shared.errors import ErrorEnvelope, InclError, UnavailableError

    request = urllib.request.Request(  # noqa: S310  the scheme was checked
        f"{url}/api/v1/credentials",
        data=b"{}",
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        method="POST",
    )
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as response:  # noqa: S310
            answer: dict[str, Any] = json.loads(response.read(1_000_000))
        missing = {"user", "projects", "urls", "creds", "inbox_prefix"} - answer.keys()
    except urllib.error.HTTPError as error:
        with error:
            body = error.read(100_000)
        try:
            envelope = ErrorEnvelope.model_validate_json(body)
        except ValueError:
            raise UnavailableError(f"{url} answers with status {error.code}", hint="is it an INCL gateway?") from None
        raise InclError.from_envelope(envelope) from None
    except (OSError, ValueError, AttributeError) as error:
        cause = str(getattr(error, "reason", error))
        raise UnavailableError(f"no gateway answers at {url}", cause=cause, hint="see the URL; is it up?") from None
    if missing:
        raise UnavailableError(f"{url} is not an INCL gateway", cause=f"its answer has no {', '.join(sorted(missing))}")
    return answer


def _project(args: argparse.Namespace, answer: dict[str, Any]) -> str:
    from incl_shared.errors import DeniedError

    projects = [str(project) for project in answer["projects"]]
    if args.project is None:
        if not projects:
            raise DeniedError(f"{answer['user']} is in no project", hint="ask an owner to add you")
        return "default" if "default" in projects else projects[0]
    if args.project not in projects:
        raise DeniedError(f"{answer['user']} is not in project {args.project}", hint=f"yours: {', '.join(projects)}")
    return str(args.project)


def _slug(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9.-]+", "-", text.rpartition("@")[2])


def _write_creds(path: Path, text: str) -> Path:
    from incl_shared.auth.files import write_private

    write_private(path, text.encode())
    return path
