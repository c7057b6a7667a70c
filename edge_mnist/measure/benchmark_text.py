"""The tables that `edge-mnist bench` prints."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from edge_mnist.measure.benchmark import Facts
from edge_mnist.system.tables import make_table, print_table


def show(facts: Facts, console: Console) -> None:
    """Print the machine, a table for each number of threads and size of batch, and one of sizes, loading and memory."""
    show_machine(facts, console)
    for batch in facts["batches"]:
        for threads in facts["threads"]:
            print_table(_latencies(facts, threads, batch), console)
    print_table(_weights(facts), console)
    for reason in facts["not_run"].values():
        console.print(f"not run: {reason}", soft_wrap=True)


def show_machine(facts: Facts, console: Console) -> None:
    """Print what the figures depend on, and what changed meanwhile."""
    for finding in facts["machine"]:
        remedy = f": {finding['remedy']}" if finding["remedy"] else ""
        console.print(f"{finding['name']:<11} {finding['text']}{remedy}", soft_wrap=True)
    before = {finding["name"]: finding for finding in facts["machine"]}
    for finding in facts["machine_after"]:
        if finding["name"] in ("Load", "Power", "Temperature") and finding != before.get(finding["name"]):
            console.print(f"{finding['name']:<11} {finding['text']} afterwards", soft_wrap=True)


def _latencies(facts: Facts, threads: int, batch: int) -> Table:
    images = "1 image at a time" if batch == 1 else f"{batch} images at a time"
    title = f"{images}, {threads} thread{'s' if threads > 1 else ''}; microseconds"
    made = make_table(f"\n{title}", ("artifact",), ("median", "p5", "p99", "images/s"))
    for row in facts["artifacts"]:
        for found in row["latency"]:
            if (found["threads"], found["batch"]) == (threads, batch):
                times = (f"{found[name]:,.1f}" for name in ("median_us", "p5_us", "p99_us"))
                made.add_row(row["file"], *times, f"{found['images_per_second']:,.0f}")
    return made


def _weights(facts: Facts) -> Table:
    headers = ("bytes", "load\nms", "with\nimport", "Rss\nMB", "private\nMB")
    title = "\nSize; loading; memory of a process that only runs the model, one thread"
    made = make_table(title, ("artifact", "runtime"), headers, wraps=("runtime",))
    for row in facts["artifacts"]:
        cells = [f"{row['bytes']:,}", f"{row['load_ms']:.1f}", f"{row['start_ms']:,.0f}"]
        made.add_row(row["file"], row["runtime"], *cells, *_megabytes(row["memory"]))
    made.add_section()
    made.add_row("Python and NumPy", "", "", "", "", *_megabytes(facts["artifacts"][0]["python"]))
    return made


def _megabytes(memory: Facts | None) -> tuple[str, str]:
    """Rss and private memory; unknown where the system does not tell."""
    return (f"{memory['rss_mb']:.1f}", f"{memory['private_mb']:.1f}") if memory else ("?", "?")
