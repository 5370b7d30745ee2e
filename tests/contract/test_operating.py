"""Alerts, dashboard and runbook name what is really exported, and nothing that can be found is without a word."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from incl_agent.app import create_app as create_agent
from incl_agent.settings import AgentSettings
from incl_gateway.app import create_app as create_gateway
from incl_gateway.settings import GatewaySettings
from incl_hpo.app import create_app as create_hpo
from incl_hpo.settings import HpoSettings
from incl_provisioner.app import create_app as create_provisioner
from incl_provisioner.settings import ProvisionerSettings
from incl_registry.app import create_app as create_registry
from incl_registry.settings import RegistrySettings
from incl_shared.states import AttemptState
from incl_tracker.app import create_app as create_tracker
from incl_tracker.settings import TrackerSettings

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
RUNBOOK = ROOT / "docs" / "runbooks" / "operating.md"
FINDERS = (
    "client/src/incl_cli/stuck.py",
    "services/provisioner/src/incl_provisioner/stuck.py",
    "services/tracker/src/incl_tracker/behind.py",
    "services/tracker/src/incl_tracker/stuck.py",
    "services/registry/src/incl_registry/app.py",
    "services/hpo/src/incl_hpo/stuck.py",
    "shared/src/incl_shared/bus/findings.py",
    "shared/src/incl_shared/disk.py",
)
_NAME = re.compile(r"\bincl_[a-z0-9_]+")
_KIND = re.compile(r"^[a-z]+\.[a-z-]+$")
_OTHER = {"run.json", "grants.key", "incl.registry", "incl.tracker"}


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Every name that any service or agent shows, with its type; services that were built and not started."""
    folder = tmp_path_factory.mktemp("nothing")
    url = f"sqlite:///{folder / 'x.db'}"
    keys: dict[str, Any] = {"keys_dir": folder, "vault_key": folder / "vault.key", "local_user": "ann"}
    apps = [
        create_provisioner(ProvisionerSettings(database_url=url)),
        create_tracker(TrackerSettings(database_url=url)),
        create_registry(RegistrySettings(database_url=url, data=folder)),
        create_hpo(HpoSettings(database_url=url)),
        create_gateway(GatewaySettings(database_url=url, projects=("default",), **keys)),
    ]
    registries: list[CollectorRegistry] = [app.bus.metrics.registry for app in apps]
    registries.append(create_agent(AgentSettings(data_dir=folder)).metrics.registry)
    names: dict[str, str] = {}
    for registry in registries:
        for metric in registry.collect():
            endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}.get(metric.type, ("",))
            names |= {f"{metric.name}{ending}": metric.type for ending in endings}
    assert len(names) > 50
    return names


def families(exported: dict[str, str]) -> set[str]:
    """With the names of histograms as a person says them."""
    return exported.keys() | {name.removesuffix("_count") for name in exported}


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def anchors(text: str) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    found = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in found}


def dashboard_module() -> Any:
    spec = importlib.util.spec_from_file_location("dashboard", ROOT / "deploy" / "grafana" / "dashboard.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["dashboard"] = module
    spec.loader.exec_module(module)
    return module


def queries() -> list[str]:
    return [target["expr"] for panel in dashboard_module().dashboard()["panels"] for target in panel.get("targets", ())]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_names_what_is_exported_and_says_what_to_do(rule: dict[str, Any], exported: dict[str, str]) -> None:
    names = set(_NAME.findall(rule["expr"]))
    assert names
    assert names <= exported.keys(), f"not exported: {sorted(names - exported.keys())}"
    said = rule["annotations"]
    assert said["summary"] and said["action"]
    assert set(_NAME.findall(said["action"])) <= families(exported)
    page, _, anchor = said["runbook"].partition("#")
    assert anchor in anchors((ROOT / page).read_text(encoding="utf-8"))
    assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_dashboard_is_what_its_code_makes_and_names_what_is_exported(exported: dict[str, str]) -> None:
    module = dashboard_module()
    assert module.FILE.read_text(encoding="utf-8") == module.text(), "run: python deploy/grafana/dashboard.py"
    names = {name for query in queries() for name in _NAME.findall(query)}
    assert names <= exported.keys(), f"not exported: {sorted(names - exported.keys())}"
    board = json.loads(module.FILE.read_text(encoding="utf-8"))
    places = [(p["gridPos"]["x"], p["gridPos"]["y"]) for p in board["panels"]]
    assert len(set(places)) == len(places), "no panel lies over another"
    assert all(p["gridPos"]["x"] + p["gridPos"]["w"] <= 24 for p in board["panels"])


def test_promtool_agrees(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not here (Debian: apt-get install prometheus)")
    recorded = [
        {"record": f"panel{number}", "expr": query.replace("$__rate_interval", "5m")}
        for number, query in enumerate(queries())
    ]
    panels = tmp_path / "panels.yaml"
    panels.write_text(json.dumps({"groups": [{"name": "panels", "rules": recorded}]}))
    for words in (
        ("check", "rules", str(RULES)),
        ("check", "rules", str(panels)),
        ("test", "rules", "rules.test.yaml"),
    ):
        done = subprocess.run([promtool, *words], cwd=RULES.parent, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stdout + done.stderr


def test_the_runbook_names_what_is_exported(exported: dict[str, str]) -> None:
    text = RUNBOOK.read_text(encoding="utf-8")
    names = {name.rstrip("_") for name in _NAME.findall(text)}
    known = families(exported)
    assert names <= known, f"not exported: {sorted(names - known)}"
    watched = {name for name in known if name.startswith(("incl_bus_", "incl_lease_", "incl_agent_"))}
    missing = {name for name in watched if not re.search(r"_(bucket|sum|count)$", name)} - names
    assert not missing, f"the runbook says nothing of {sorted(missing)}"


def test_every_finding_is_in_the_runbook() -> None:
    kinds = {f"attempt.{state}" for state in ("assigned", "preparing", "ready", "uploading", "stopping")}
    assert {f"attempt.{AttemptState.UPLOADING}"} <= kinds
    for file in FINDERS:
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        words = {
            node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        kinds |= {word for word in words if _KIND.match(word)} - _OTHER
    told = set(re.findall(r"`([a-z]+\.[a-z-]+)`", RUNBOOK.read_text(encoding="utf-8")))
    assert kinds - told == set(), "the runbook says nothing of these"
    assert told - kinds == set(), "nobody finds these"
