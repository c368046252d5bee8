"""The configuration of a run: its fields and their limits, the named presets, and random streams from its seed."""

from neuron_mech.config.fields import Config as Config
from neuron_mech.config.fields import Data as Data
from neuron_mech.config.fields import Derivative as Derivative
from neuron_mech.config.fields import Model as Model
from neuron_mech.config.fields import Objective as Objective
from neuron_mech.config.fields import Record as Record
from neuron_mech.config.fields import Train as Train
from neuron_mech.config.fields import Watch as Watch
from neuron_mech.config.fields import differences as differences
from neuron_mech.config.fields import fields as fields
from neuron_mech.config.fields import numbered as numbered
from neuron_mech.config.limits import HUGE as HUGE
from neuron_mech.config.limits import LIMITS as LIMITS
from neuron_mech.config.limits import TINY as TINY
from neuron_mech.config.limits import WHOLE as WHOLE
from neuron_mech.config.limits import Limits as Limits
from neuron_mech.config.limits import check_once as check_once
from neuron_mech.config.presets import PRESETS as PRESETS
from neuron_mech.config.random_streams import random_stream as random_stream
