"""Files that are almost reports of the benchmarks."""

import json

from funcnet import bench


def reports():
    """Files that `bench --load` is given: none of them is a whole report, whatever JSON says."""
    whole = bench.Report((), bench.Ceilings(1.0, 1.0), bench.Machine.here(), {}, "now").to_dict()
    timing = {"seconds": 1.0, "low_seconds": 1.0, "high_seconds": 1.0, "repetitions": 3}
    passes = dict.fromkeys(("forward", "forward_backward"), timing)
    result = {
        **{"section": "rules", "name": "relu", "case": "x", "flops": {}, "least_bytes": {}},
        **{"images": 0, "notes": [], "contenders": [{"name": "funcnet", "timings": passes}]},
    }

    def holding(**changes):
        return json.dumps(whole | {"results": [result | changes]})

    return {
        "good.json": json.dumps(whole),
        "cut.json": json.dumps(whole)[:-20],
        "list.json": "[]",
        "version.json": json.dumps(whole | {"format": 99}),
        "part.json": '{"format": 1}',
        "bytes.json": b"\xff\xfe\x00\x01",
        "deep.json": "[" * 100_000,
        "alone.json": holding(contenders=[]),
        "passes.json": holding(contenders=[{"name": "funcnet", "timings": {}}]),
        "words.json": holding(
            contenders=[
                {
                    "name": "funcnet",
                    "timings": {name: timing | {"seconds": "fast"} for name in passes},
                }
            ]
        ),
        "section.json": holding(section="zoo"),
        "ceilings.json": json.dumps(whole | {"ceilings": {"flops_per_second": "a", "x": 1}}),
    }
