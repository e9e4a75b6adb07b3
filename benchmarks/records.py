"""Where benchmarks write what they measured."""

from pathlib import Path

from patchcert import result_format, results


def write(measured: dict, path: Path | None) -> None:
    """Write what was `measured`, and on what machine, in the format of all results; nothing where there is no path."""
    if path:
        results.write_json(result_format.stamp("benchmark") | measured | {"environment": results.environment()}, path)
