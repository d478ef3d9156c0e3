from dsmath_jax.mining.projection import Cost, Stage, measured, projected


def test_cost_by_hand():
    stages = {
        "score": Stage(pages=1000, seconds=2.0, read=31_000, written=80_000),
        "extraction": Stage(pages=20, seconds=0.2, read=900, written=4000),
        "cleaning": None,
    }
    costs = projected(stages, pages=1_800_000_000, taken=0.01)
    assert costs["score"] == Cost(1_800_000_000, 1000.0, 55_800_000_000, 144_000_000_000)
    assert costs["extraction"] == Cost(18_000_000, 50.0, 810_000_000, 3_600_000_000)
    total = Cost(1_800_000_000, 1050.0, 56_610_000_000, 147_600_000_000)
    assert costs["total"] == total and set(costs) == {"score", "extraction", "total"}


def test_of_what_shards_counted():
    counts = {"pages": 20, "seconds": 1.0, "bytes_stored": 14, "bytes_written": 6, "rejected": {}}
    assert measured(counts) == Stage(20, 1.0, 14, 6)
    assert measured({"pages": 20, "seconds": 1.0}) == Stage(20, 1.0)
    assert measured({}) is None
