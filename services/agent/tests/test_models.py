"""Models that a script registers: stored by their files, told to the registry once, whatever happens in between."""

from __future__ import annotations

from incl_agent.app import Agent
from incl_agent.fakes import FakePlatform
from incl_shared.control import JobWanted
from incl_shared.states import EndReason
from incl_shared.testing.wait import until


async def _said(platform: FakePlatform, job: JobWanted, text: str) -> bool:
    return any(text in line for _, _, line in await platform.lines(job))


async def test_models_are_registered_while_it_runs(agent: Agent, platform: FakePlatform) -> None:
    """Once their bytes are stored; each file of a folder is listed; what is refused is said in the job's log."""
    script = (
        "import incl, os, time\n"
        "open('best.pt', 'w').write('weights')\n"
        "incl.log({'loss': 0.5}, step=1)\n"
        "incl.register_model('net', 'best.pt', note='good', tags=['a'], metadata={'dice': 0.9})\n"
        "while not os.path.exists('go'): time.sleep(0.01)\n"
        "os.makedirs('export/deep'); open('export/deep/w', 'w').write('w'); open('export/c', 'w').write('c')\n"
        "incl.register_model('net', 'export', move=True)\n"
        "incl.register_model('old', 'best.pt')\n"
    )
    platform.closed_models.add("old")
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}))
    await platform.want(job)
    await until(lambda: len(platform.models) == 1)
    [first] = platform.models.values()
    assert (first.model, first.note, first.tags, first.metadata) == ("net", "good", ("a",), {"dice": 0.9})
    assert (first.experiment, first.attempt, first.rank, first.kind) == (job.experiment, 1, 0, "model")
    (agent.settings.jobs_dir / job.job / "work" / "go").touch()
    end = await platform.ended(job)
    assert end.reason is EndReason.COMPLETED
    assert [query.model for query in platform.models.values()] == ["net", "net"]
    second = list(platform.models.values())[1]
    listed = sorted(entry.path for entry in platform.entries if entry.path.startswith(f"{second.path}/"))
    assert [path.removeprefix(f"{second.path}/") for path in listed] == ["c", "deep/w"]
    assert platform.store.blobs[next(e.sha256 for e in platform.entries if e.path == first.path)] == b"weights"
    await until(lambda: _said(platform, job, "model not registered: old: the model old is in the trash"))
    left = list((agent.settings.jobs_dir / job.job / "spool" / "files").glob("*/best.pt"))
    assert left == [], "what is stored is not kept twice"


async def test_a_model_that_the_job_exchanges_is_not_stored(agent: Agent, platform: FakePlatform) -> None:
    """A link to what the job may not see itself is nothing that it left."""
    script = (
        "import incl, json, os\n"
        "open('a', 'w').write('a')\n"
        "os.makedirs('d'); os.symlink('/etc/hostname', 'd/leak'); open('d/own', 'w').write('own')\n"
        "spool = os.environ['INCL_SPOOL_DIR']\n"
        "os.makedirs(spool + '/files/x'); os.symlink('/etc/hostname', spool + '/files/x/leak')\n"
        "os.makedirs(spool + '/files/y'); os.rename('d', spool + '/files/y/d')\n"
        "with open(spool + '/evil.jsonl', 'w') as f:\n"
        "    for file in (spool + '/files/x/leak', '/etc/hostname', spool + '/files/y/d'):\n"
        "        f.write(json.dumps({'k': 'v', 't': 1.0, 'model': 'net', 'file': file}) + '\\n')\n"
    )
    job = platform.job("python3", "run.py", code=platform.code({"run.py": script}))
    await platform.run_job(job)
    assert (await platform.ended(job)).reason is EndReason.COMPLETED
    assert [entry.path.rpartition("/")[2] for entry in platform.entries if entry.kind == "model"] == ["own"]
    assert len(platform.models) == 1
