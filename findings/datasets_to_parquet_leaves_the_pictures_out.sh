#!/usr/bin/env bash
# datasets 5.2.0 (pyarrow 26.0.1, pillow 13.0.0): Dataset.to_parquet of a column of pictures that came
# from files writes their paths and no bytes, also where they were opened by Pillow. The file is read
# again without a word on the machine that has the pictures, and holds none for any other. A picture
# that was made in memory is in the file.
#
# Seen, the bytes and the path of each row:
#   by its path None seven.png; opened None seven.png; made in memory bytes None
set -euo pipefail

folder="$(mktemp -d)"
trap 'rm -r "$folder"' EXIT
"$(command -v python3.11 || command -v python3)" -m venv "$folder/env"
"$folder/env/bin/python" -m pip install --quiet --disable-pip-version-check \
  "datasets==5.2.0" "pyarrow==26.0.1" "pillow==13.0.0"
cd "$folder"
found="$(HF_HUB_OFFLINE=1 HF_HOME="$folder/home" "$folder/env/bin/python" - 2>/dev/null <<'PYTHON'
import datasets
import pyarrow.parquet
from PIL import Image

grey = Image.new("L", (4, 4), 7)
grey.save("seven.png")
rows = {"by its path": "seven.png", "opened": Image.open("seven.png"), "made in memory": grey}
words = []
for name, picture in rows.items():
    features = datasets.Features({"image": datasets.Image()})
    datasets.Dataset.from_dict({"image": [picture]}, features=features).to_parquet("rows.parquet")
    row = pyarrow.parquet.read_table("rows.parquet")["image"][0].as_py()
    words.append(f"{name} {'bytes' if row['bytes'] else None} {row['path']}")
print("; ".join(words))
PYTHON
)"
echo "$found"
[[ "$found" == "by its path None seven.png; opened None seven.png; made in memory bytes None" ]] ||
  { echo "changed"; exit 1; }
