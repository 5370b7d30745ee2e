"""incl sweep run|ls|show|trials|best|plot|export|stop|resume|schema."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from incl_cli.arguments import Parser, UsageProblem, common

if TYPE_CHECKING:
    from incl_cli.running import Session

EXAMPLES = """  incl sweep run sweep.yaml          also: incl sweep sweep.yaml
  incl sweep run sweep.yaml --trials 20 --parallel 4 --detach
  incl sweep show @last
  incl sweep trials @last --sort value
  incl sweep best @last --env        the parameters as K=V, for incl run --env
  incl sweep plot @last --kind importance
  incl sweep plot @last --kind contour --parameters LR,HIDDEN --out contour.png
  incl sweep export @last -o trials.csv
  incl sweep export @last --optuna sqlite:///study.db
  incl sweep stop @last
  incl sweep resume @last --trials 100
  incl sweep schema > sweep.schema.json
  incl ls 'sweep ~ 3f9k2x7q'         its trials are experiments like any other

What a sweep file says is in docs/sweeps.md. Ctrl-C detaches: the sweep goes on."""
KINDS = ("history", "slice", "timeline", "importance", "parallel", "contour", "rank", "early")
_FILES = (".yaml", ".yml", ".json")


def shorthand(words: list[str]) -> list[str]:
    """`incl sweep FILE` is `incl sweep run FILE`."""
    return ["run", *words] if words and words[0].endswith(_FILES) else words


def arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    names = "run | ls | show | trials | best | plot | export | stop | resume | schema"
    actions = parser.add_subparsers(dest="action", metavar=names, required=True, parser_class=Parser)
    _run_arguments(actions.add_parser("run", help="submit a sweep file and follow it"))
    listing = actions.add_parser("ls", help="the sweeps of the project, the newest first")
    listing.add_argument("--running", action="store_true", help="only those that are not over")
    listing.add_argument("-n", "--limit", type=int, default=20, metavar="N", help="at most so many (20)")
    show = actions.add_parser("show", help="one sweep: how far it is, what is best")
    show.add_argument("-f", "--follow", action="store_true", help="until it is over, or Ctrl-C")
    trials = actions.add_parser("trials", help="its trials")
    trials.add_argument("--sort", choices=("number", "value"), default="number", help="value: the best first")
    trials.add_argument("--state", help="only those in this state: running, complete, failed …")
    trials.add_argument("-n", "--limit", type=int, metavar="N", help="at most so many (all)")
    best = actions.add_parser("best", help="the best parameters")
    best.add_argument("--env", action="store_true", help="as K=V, a line each")
    stop = actions.add_parser("stop", help="try no more, and stop the trials that run")
    stop.add_argument("--reason", default="", help="why; shown with the sweep")
    stop.add_argument("--wait", action="store_true", help="until it is over")
    resume = actions.add_parser("resume", help="go on with one that is over, or for longer")
    resume.add_argument("--trials", type=int, metavar="N", help="so many in all")
    resume.add_argument("--hours", type=float, metavar="H", help="so long from now")
    resume.add_argument("--money", type=float, metavar="M", help="what all trials may cost")
    resume.add_argument("--parallel", type=int, metavar="N", help="trials at once, at most")
    resume.add_argument("--file", metavar="FILE", help="its sweep file: refused if more than its budget has changed")
    resume.add_argument("-d", "--detach", action="store_true", help="do not follow")
    plot = actions.add_parser("plot", help="its trials as a picture, in the terminal or a file")
    plot.add_argument("--kind", choices=KINDS, default="history", help=f"{', '.join(KINDS)} (history)")
    plot.add_argument("--parameters", metavar="A,B", help="of which parameters (those that matter most, or all)")
    plot.add_argument("--out", metavar="FILE", help="into a .png, .svg or .html (needs 'incl[plot]')")
    plot.add_argument("--height", type=int, default=14, metavar="ROWS", help="of each chart (14)")
    export = actions.add_parser("export", help="the trials as CSV, or as a study of Optuna")
    export.add_argument("-o", "--output", metavar="FILE", help="into a file, not to stdout")
    export.add_argument("--optuna", metavar="STORAGE", help="a study: sqlite:///FILE, another URL, or a journal's path")
    export.add_argument("--study", metavar="NAME", help="the study's name (the sweep's); with --optuna")
    common(actions.add_parser("schema", help="the JSON Schema of the sweep file, for editors"))
    for action in (show, trials, best, plot, export, stop, resume):
        action.add_argument("sweep", nargs="?", default="@last", help="id, the end of one, name, @last (default)")
    for action in (listing, show, trials, best, plot, export, stop, resume):
        action.add_argument("--project", help="another project than the usual one")
        common(action)


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", metavar="FILE", help="a sweep file (docs/sweeps.md)")
    parser.add_argument("--name", help="a name for people")
    parser.add_argument("--trials", metavar="N", help="how many trials at most")
    parser.add_argument("--hours", metavar="H", help="how long trials may begin")
    parser.add_argument("--money", metavar="M", help="what the machines of all trials may cost")
    parser.add_argument("--parallel", metavar="N", help="trials at once, at most")
    parser.add_argument("--seed", metavar="N", help="another seed")
    parser.add_argument("--algorithm", metavar="NAME", help="tpe, random, grid, sobol, optuna.TPESampler …")
    parser.add_argument("--warm-start", action="append", metavar="SWEEP", help="learn from an earlier sweep first")
    parser.add_argument("--set", action="append", metavar="KEY=VALUE", help="any key: --set experiment.resources.cpu=2")
    parser.add_argument("--workdir", metavar="DIR", help="the folder to pack (that of the experiment's file)")
    parser.add_argument("-d", "--detach", action="store_true", help="do not follow; print the id")
    parser.add_argument("--dry-run", action="store_true", help="check and pack, but submit nothing")
    parser.add_argument("--project", help="another project than the usual one")
    common(parser)


def run(args: argparse.Namespace, session: Session) -> int:
    """Do it. Packing begins in threads of its own, before there is a loop."""
    if args.action == "run":
        from incl_cli.sweep_submit import submit

        return submit(args, session)
    if args.action == "schema":
        from incl_shared.sweepfile import sweep_schema_text

        session.out.out.write(sweep_schema_text())
        return 0
    if args.action == "resume":
        from incl_cli.sweep_resume import resume

        return session.run(resume(args, session))
    if args.action == "export" and args.study is not None and args.optuna is None:
        raise UsageProblem("--study is the name of a study of Optuna", hint="with --optuna sqlite:///study.db")
    if args.action == "export" and args.optuna is not None:
        from incl_cli import sweep_optuna

        return session.run(sweep_optuna.export(args, session))
    if args.action in ("plot", "export"):
        from incl_cli import sweep_plots

        return session.run((sweep_plots.plot if args.action == "plot" else sweep_plots.export)(args, session))
    from incl_cli import sweep_views

    return session.run(sweep_views.ACTIONS[args.action](args, session))
