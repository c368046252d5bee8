"""Files of a run: its directory, results, checkpoints and provenance, each written whole or not at all, no pickles.

runs/PRESET/config.json  identity.json  checkpoints/  train.nc  gradient_signs.nc  figures/*.png, *.svg
"""

from neuron_mech.store.checksums import all_lost as all_lost
from neuron_mech.store.checksums import lost as lost
from neuron_mech.store.checksums import owed as owed
from neuron_mech.store.checksums import step as step
from neuron_mech.store.checksums import whole as whole
from neuron_mech.store.checksums import write_result as write_result
from neuron_mech.store.directory import bind as bind
from neuron_mech.store.directory import held as held
from neuron_mech.store.directory import opened as opened
from neuron_mech.store.directory import read_config as read_config
from neuron_mech.store.directory import seed_directories as seed_directories
from neuron_mech.store.labelled import FORMAT as FORMAT
from neuron_mech.store.labelled import FormatError as FormatError
from neuron_mech.store.labelled import about as about
from neuron_mech.store.labelled import arrays as arrays
from neuron_mech.store.labelled import exists as exists
from neuron_mech.store.labelled import load as load
from neuron_mech.store.labelled import of_site as of_site
from neuron_mech.store.labelled import read_dataset as read_dataset
from neuron_mech.store.labelled import selectable as selectable
from neuron_mech.store.labelled import stacked as stacked
from neuron_mech.store.labelled import variable as variable
from neuron_mech.store.labelled import write_dataset as write_dataset
