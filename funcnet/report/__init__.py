"""A page on a run: its result, curves, mistakes, first weights and gradients, in one file of HTML.

`write(folder)` makes `report.html` of a run's folder, and `report.json` beside it, which holds each
number of the page; with the data set it tells of a split too. `measure` gives those numbers of any
trained net. The page needs no network and no script, and is read on a telephone as on a desk, in
the light and in the dark.

>>> import tempfile
>>> from funcnet import checkpoint, data, nets, optimizers, report, train
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> run = train.fit(nets.softmax_classifier(3), dataset, optimizers.adam(1e-2), epochs=1)
>>> with tempfile.TemporaryDirectory() as folder:
...     checkpoint.save_trained(folder, run.trained)
...     report.write(folder, dataset).path.name
'report.html'
"""

from funcnet._homes import at_home
from funcnet.report._measures import measure
from funcnet.report._write import Written, write

__all__ = ["Written", "measure", "write"]

at_home(globals())
