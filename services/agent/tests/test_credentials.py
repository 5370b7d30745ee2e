"""The agent with least privilege: a bus in operator mode, a node's credential, and one of its own for each job."""

from __future__ import annotations

from pathlib import Path

from incl_agent.app import create_app
from incl_agent.fakes import FakePlatform
from incl_agent.settings import AgentSettings
from incl_shared.auth.names import Role
from incl_shared.control import JobWanted
from incl_shared.errors import DeniedError
from incl_shared.settings import BusSettings
from incl_shared.states import EndReason
from incl_shared.testing.secure_nats import SecureNats
from incl_shared.testing.wait import until


async def test_a_job_speaks_for_itself_alone(secure_nats: SecureNats, tmp_path: Path) -> None:
    minter = secure_nats.minter
    creds = minter.node("node1").write(tmp_path / "node.creds")
    admin = await secure_nats.service(Role.ADMIN)
    gateway, registry, provisioner = [
        await secure_nats.service(role) for role in (Role.GATEWAY, Role.REGISTRY, Role.PROVISIONER)
    ]
    platform = FakePlatform(admin)
    platform.writer = provisioner
    minted: list[str] = []

    def mint(job: JobWanted) -> tuple[str, str]:
        credential = minter.attempt(job.project, job.experiment, job.attempt, job.rank, 3.0)
        minted.append(credential.jwt)
        return credential.jwt, credential.seed

    platform.mint, platform.credential_ttl_s = mint, 3.0
    platform.secrets["KEY"] = "hush"
    await platform.start()
    await platform.serve(gateway, "incl.query.*.*.signer.>", "incl.query.*.*.gateway.>")
    await platform.serve(registry, "incl.query.*.*.registry.>")
    agent = create_app(
        AgentSettings(
            node="node1",
            data_dir=tmp_path / "agent",
            bus=BusSettings(urls=(secure_nats.url,), creds=creds),
            container_tool="none-such",
        )
    )
    await agent.start()
    try:
        code = platform.code(
            {"run.sh": 'echo $KEY > "$INCL_OUTPUT_DIR/k"; while [ ! -e go ]; do sleep 0.05; done; echo end'}
        )
        job = platform.job("sh", "run.sh", code=code, secrets=("KEY",))
        await platform.want(job)
        await until(lambda: len(minted) >= 3, timeout=15)
        (agent.settings.jobs_dir / job.job / "work" / "go").touch()
        assert (await platform.ended(job)).reason is EndReason.COMPLETED
        assert [text for _, _, text in await platform.lines(job)] == ["end"]
        assert [entry.path for entry in platform.entries] == ["k"]
        assert agent.manager is not None
        assert agent.node is not None
        try:
            await agent.node.client.publish_confirmed("incl.report.other", b"{}", message_id="x", timeout=2)
        except DeniedError:
            pass
        else:
            raise AssertionError("a node may report for another one")
    finally:
        await agent.stop()
        await platform.stop()
        for client in (admin, gateway, registry, provisioner):
            await client.close()
