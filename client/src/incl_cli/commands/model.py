"""incl model: versions of models, aliases, approvals, the audit trail."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import Parser, common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl model register @last --name chest-xray --path best.pt
  incl model ls
  incl model show chest-xray            also: chest-xray:3, chest-xray@production
  incl model set chest-xray:3 --note 'second site' --tag reviewed --metadata dice=0.91
  incl model alias chest-xray production 3
  incl model protect chest-xray production      it moves only once another person approves
  incl model requests                           what waits for you; incl model approve chest-xray 1
  incl model history chest-xray
  incl model get chest-xray@production -o model
  incl model compare chest-xray:2 chest-xray@production
  incl model card chest-xray:3 > card.md
  incl model verify chest-xray
  incl model rm chest-xray:2            into the trash; incl model restore brings it back

All of it: docs/models.md. In a script: incl.register_model(...), incl.load_model("chest-xray@production")."""


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    names = "register | ls | show | set | alias | protect | requests | approve | refuse | history | get | …"
    actions = parser.add_subparsers(dest="action", metavar=names, required=True, parser_class=Parser)
    _register(actions.add_parser("register", help="files of an experiment become a version"))
    listing = actions.add_parser("ls", help="the models of the project")
    listing.add_argument("contains", nargs="?", default="", metavar="TEXT", help="only names with this text")
    listing.add_argument("--trash", action="store_true", help="what lies in the trash")
    listing.add_argument("-n", "--limit", type=int, default=50, metavar="N", help="at most so many (50)")
    show = actions.add_parser("show", help="a model and its versions, or all of one version")
    show.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="at most so many versions (20)")
    change = actions.add_parser("set", help="other words for a model or a version: note, tags, metadata")
    _words(change)
    change.add_argument("--untag", action="append", default=[], metavar="TAG", help="take a tag away")
    alias = actions.add_parser("alias", help="point an alias at a version")
    alias.add_argument("model", help="the name of a model")
    alias.add_argument("alias", help="production, staging, any word")
    alias.add_argument("version", nargs="?", help="a number, or @another-alias")
    alias.add_argument("--remove", action="store_true", help="take the alias away")
    alias.add_argument("--expect", metavar="N", help="only if it points at this version now; 'none': only if it is new")
    alias.add_argument("--reason", default="", help="why; kept in the history")
    _approvals(actions)
    history = actions.add_parser("history", help="the audit trail: what was done, when, by whom")
    history.add_argument("model", help="the name of a model")
    history.add_argument("--alias", metavar="ALIAS", help="only moves of this alias")
    history.add_argument("-n", "--limit", type=int, default=50, metavar="N", help="at most so many entries (50)")
    get = actions.add_parser("get", help="download a version, each file checked")
    get.add_argument("-o", "--output", metavar="DIR", help="where to (a folder named after the version)")
    get.add_argument("--force", action="store_true", help="replace files that differ")
    get.add_argument("--cache", action="store_true", help="into the cache of this machine, and print the path in it")
    compare = actions.add_parser("compare", help="how versions differ: metrics, config, code, files, words")
    compare.add_argument("references", nargs="+", metavar="MODEL", help="chest-xray:2, chest-xray@production")
    compare.add_argument("--all", action="store_true", help="also what does not differ")
    card = actions.add_parser("card", help="a first draft of a model card, in Markdown")
    verify = actions.add_parser("verify", help="is the audit trail whole, and does it tell what is stored?")
    verify.add_argument("model", help="the name of a model")
    verify.add_argument("--head", metavar="HASH", help="one that was printed before: the trail must still hold it")
    remove = actions.add_parser("rm", help="into the trash: a version, or a whole model")
    restore = actions.add_parser("restore", help="out of the trash")
    for action in (show, change, get, card, remove, restore):
        action.add_argument("reference", metavar="MODEL", help="chest-xray, chest-xray:3, chest-xray@production")
    for action in actions.choices.values():
        action.add_argument("--project", help="another project than the usual one")
        common(action)


def _approvals(actions: argparse._SubParsersAction[Parser]) -> None:
    protect = actions.add_parser("protect", help="an alias moves only once another person has approved")
    protect.add_argument("model", help="the name of a model")
    protect.add_argument("alias", help="production, staging, any word")
    protect.add_argument("--remove", action="store_true", help="no more; this needs an approval as well")
    requests = actions.add_parser("requests", help="what waits for an approval")
    requests.add_argument("model", nargs="?", help="of this model only")
    requests.add_argument("--all", action="store_true", help="also what is decided")
    approve = actions.add_parser("approve", help="approve what another person asked for: it is done at once")
    refuse = actions.add_parser("refuse", help="refuse it; or take back what you asked for yourself")
    for action in (approve, refuse):
        action.add_argument("model", help="the name of a model")
        action.add_argument("request", type=int, metavar="N", help="the number of the request")
    for action in (protect, approve, refuse):
        action.add_argument("--reason", default="", help="why; kept in the history")


def _register(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("experiment", help="id, the end of one, name, @last")
    parser.add_argument("--name", required=True, metavar="MODEL", help="of the model; made when there is none yet")
    parser.add_argument("--path", required=True, help="a file of the experiment, or a folder: all below it")
    parser.add_argument(
        "--kind", choices=("output", "checkpoint", "media", "model"), help="where several kinds have the path"
    )
    parser.add_argument("--attempt", type=int, metavar="N", help="of this attempt (the newest that has it)")
    parser.add_argument("--rank", type=int, metavar="N", help="of this node")
    _words(parser)


def _words(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--note", metavar="TEXT", help="what is to be said of it; @FILE reads a file")
    parser.add_argument("--tag", action="append", default=[], metavar="TAG", help="may be repeated")
    parser.add_argument(
        "--metadata", action="append", default=[], metavar="K=V", help="V is JSON, or text; @FILE: a JSON object"
    )


async def run(args: argparse.Namespace, session: Session) -> int:
    """Do it."""
    from incl_cli import model_acts, model_approvals, model_compare, model_get, model_views

    actions = {
        "register": model_acts.register,
        "ls": model_views.list_models,
        "show": model_views.show,
        "set": model_acts.change,
        "alias": model_acts.alias,
        "protect": model_approvals.protect,
        "requests": model_approvals.requests,
        "approve": model_approvals.decide,
        "refuse": model_approvals.decide,
        "history": model_views.history,
        "get": model_get.get,
        "compare": model_compare.compare,
        "card": model_compare.card,
        "verify": model_views.verify,
        "rm": model_acts.trash,
        "restore": model_acts.trash,
    }
    return await actions[args.action](args, session)
