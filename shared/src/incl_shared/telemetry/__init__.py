"""The way of metrics and lines from a job's files to the bus: spool, tailer, batches, shipper.

What the agent needs:

    source = MetricSource(spool_dir, journal_dir / "metrics.json")
    metrics = Shipper(source, client.publish_confirmed, subject=subjects.metrics(…), job=job_id(…), on_extras=note)
    tailer = LogTailer({OUT: stdout_log, ERR: stderr_log}, journal_dir / "log.index")
    source = LogSource(tailer, journal_dir / "logs.json", clock)
    logs = Shipper(source, client.publish_confirmed, subject=subjects.logs(…), job=…)
    task = asyncio.create_task(metrics.run())          # while the job runs
    task.cancel(); done = await metrics.flush(30.0)    # once it has ended
    report.writers = (*metrics.counts(), *logs.counts())
    spooled_files(spool_dir)                           # files that wait for an upload, after a restart
"""

from incl_shared.telemetry.batcher import decode_logs, decode_metrics, unpack
from incl_shared.telemetry.journal import Journal
from incl_shared.telemetry.log_source import LogSource
from incl_shared.telemetry.shipper import Shipped, Shipper
from incl_shared.telemetry.sources import MetricSource, Outgoing, Source
from incl_shared.telemetry.spool import SpooledFile, SpoolReader, spooled_file, spooled_files
from incl_shared.telemetry.stored import Stored, Tracker, read_marks
from incl_shared.telemetry.tailer import ERR, OUT, SAID, LogTailer

__all__ = [
    "ERR",
    "OUT",
    "SAID",
    "Journal",
    "LogSource",
    "LogTailer",
    "MetricSource",
    "Outgoing",
    "Shipped",
    "Shipper",
    "Source",
    "SpoolReader",
    "SpooledFile",
    "Stored",
    "Tracker",
    "decode_logs",
    "decode_metrics",
    "read_marks",
    "spooled_file",
    "spooled_files",
    "unpack",
]
