"""An ingest needs as much memory for many images as for few."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path

# Parts of 2 MB, so that both catalogs have several. The figure is the most that this process ever held, in bytes.
INGESTS = """
import json, resource, sys
from pathlib import Path
from tests.pictures import catalog
from ucdr_ray.ingest import plan

plan.CHUNK_BYTES = 2 << 20
source, peaks = Path(sys.argv[1]), []
for name in ("few", "many"):
    images = catalog(source / f"{name}.catalog", source / name, max_side=None).domain("photo").images
    peaks.append((images, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10))
print(json.dumps(peaks))
"""
EACH = 60_000  # bytes of an image
FEW, MANY = 200, 1_500


def write_images(folder: Path, count: int) -> None:
    """Images of which each is another one."""
    folder.mkdir(parents=True)
    pixels = bytes(EACH)
    for number in range(count):
        header = b"P6 100 200 255\n" + number.to_bytes(4, "big")
        (folder / f"{number:05}.ppm").write_bytes(header + pixels[4:])


def test_memory_does_not_grow_with_the_number_of_images():
    root = Path(__file__).resolve().parents[2]
    with tempfile.TemporaryDirectory() as scratch:  # 200 MB, which pytest would keep
        for name, count in (("few", FEW), ("many", MANY)):
            write_images(Path(scratch) / name / "photo", count)
        call = [sys.executable, "-c", INGESTS, scratch]
        done = subprocess.run(call, cwd=root, capture_output=True, text=True, check=True)
    (few, before), (many, after) = json.loads(done.stdout)
    assert (few, many) == (FEW, MANY)
    # All the images more are 78 MB; a quarter of that is room for chance.
    assert after - before < 0.25 * (MANY - FEW) * EACH, f"{before} bytes for {few}, {after} for {many}"
