"""Define the challenge's variables, their units, plausible ranges and normal values, and repair and clean values.

The normal values (but for GCS 15, temperature 36.6 and weight 81, which its pipeline states) and most ranges are those
of the benchmark of Harutyunyan et al., Sci Data 2019, 10.1038/s41597-019-0103-9: IMPUTE, OUTLIER LOW and OUTLIER HIGH
of its resources/variable_ranges.csv. The repairs, and the ranges of pressures, heart and respiratory rate, temperature
and weight, are those of Johnson et al., Patient specific predictions in the intensive care unit using a Bayesian
ensemble, CinC 2012, as published in github.com/alistairewj/challenge2012.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from harness_icu.series import Channel


class Variable(NamedTuple):
    """``low`` to ``high`` is plausible, both included; ``normal`` is the value until the first one of a record."""

    name: str
    unit: str
    low: float
    high: float
    normal: float


#: The 37 time series, as the challenge lists them; a weight is known on admission, too. Where the table's lower bound
#: is 0, a 0 means no measurement (except for urine), so the bound here is the least value that is recorded; for PaCO2
#: and PaO2 it is where the repairs end. Two upper bounds are wider than the table's, which would cut off a few of the
#: records' largest values: ALT, up to 16,920 in them, has the bound of AST; that of troponin T, up to 24.91, is 25.
SERIES = (
    Variable("Albumin", "g/dL", 0.1, 60, 3.1),
    Variable("ALP", "IU/L", 1, 4000, 106),
    Variable("ALT", "IU/L", 1, 22000, 34),
    Variable("AST", "IU/L", 1, 22000, 40),
    Variable("Bilirubin", "mg/dL", 0.1, 66, 0.9),
    Variable("BUN", "mg/dL", 1, 275, 23),
    Variable("Cholesterol", "mg/dL", 1, 660, 160),
    Variable("Creatinine", "mg/dL", 0.1, 66, 1),
    Variable("DiasABP", "mmHg", 1, 200, 59),
    Variable("FiO2", "fraction", 0.2, 1.1, 0.21),
    Variable("GCS", "", 3, 15, 15),
    Variable("Glucose", "mg/dL", 1, 2200, 128),
    Variable("HCO3", "mmol/L", 1, 66, 25),
    Variable("HCT", "%", 1, 100, 30.2),
    Variable("HR", "1/min", 1, 299, 86),
    Variable("K", "mEq/L", 0.1, 15, 4.1),
    Variable("Lactate", "mmol/L", 0.1, 33, 1.8),
    Variable("Mg", "mmol/L", 0.1, 22, 2),
    Variable("MAP", "mmHg", 1, 375, 77),
    Variable("MechVent", "yes", 0, 1, 0),
    Variable("Na", "mEq/L", 1, 250, 142),
    Variable("NIDiasABP", "mmHg", 1, 375, 59),
    Variable("NIMAP", "mmHg", 1, 375, 77),
    Variable("NISysABP", "mmHg", 1, 375, 118),
    Variable("PaCO2", "mmHg", 10, 220, 40),
    Variable("PaO2", "mmHg", 20, 770, 112),
    Variable("pH", "", 6.5, 8, 7.4),
    Variable("Platelets", "1/nL", 1, 2200, 208),
    Variable("RespRate", "1/min", 1, 330, 19),
    Variable("SaO2", "%", 1, 150, 98),
    Variable("SysABP", "mmHg", 1, 375, 118),
    Variable("Temp", "C", 25, 45, 36.6),
    Variable("TroponinI", "ug/L", 0.01, 575, 2.3),
    Variable("TroponinT", "ug/L", 0.01, 25, 0.1),
    Variable("Urine", "mL", 0, 2445, 80),
    Variable("WBC", "1/nL", 0.1, 1100, 9.9),
    Variable("Weight", "kg", 35, 299, 81),
)
#: Known on admission. An unknown gender counts as the more frequent one (1 is male).
DESCRIPTORS = (
    Variable("Age", "years", 1, 130, 65),
    Variable("Gender", "male", 0, 1, 1),
    Variable("Height", "cm", 100, 240, 170),
    Variable("ICUType", "", 1, 4, 3),
)
VARIABLES = SERIES + DESCRIPTORS
NAMES = tuple(variable.name for variable in VARIABLES)
UNITS = ("coronary care", "cardiac surgery recovery", "medical", "surgical")


class Repair(NamedTuple):
    """A value of ``name`` between ``above`` and ``below``, exclusive, becomes ``factor`` * value + ``offset``."""

    name: str
    above: float
    below: float
    factor: float
    offset: float = 0.0


#: Applied in this order, each to the result of the one before.
REPAIRS = (
    Repair("pH", 0.65, 0.8, 10),
    Repair("pH", 65, 80, 0.1),
    Repair("pH", 650, 800, 0.01),
    Repair("Temp", 1, 10, 9 / 5, 32),  # 37 C, taken for Fahrenheit and converted once more
    Repair("Temp", 95, 113, 5 / 9, -160 / 9),  # Fahrenheit
    Repair("PaCO2", 1, 10, 10),
    Repair("PaO2", 1, 20, 10),
    Repair("Height", 1, 2.5, 100),  # metres
    Repair("Height", 12, 25, 10),  # decimetres
    Repair("Height", 250, 500, 1 / 2.54),  # centimetres, taken for inches and converted once more
)


#: The ICU type has a column for each of UNITS, every other variable has one.
CHANNELS = tuple(
    Channel(variable.name, UNITS[int(variable.normal) - 1], UNITS)
    if variable.name == "ICUType"
    else Channel(variable.name, variable.normal)
    for variable in VARIABLES
)
#: The values that a code can have, -1 (missing) among them.
CODES = {"Gender": (-1, 0, 1), "ICUType": (-1, 1, 2, 3, 4), "MechVent": (-1, 0, 1)}


def clean(variables: NDArray[np.integer], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the values repaired, with NaN for implausible ones; ``variables`` are places in VARIABLES.

    -1, which means missing, is implausible for every variable.
    """
    cleaned = values.copy()
    for name, above, below, factor, offset in REPAIRS:
        wrong = (variables == NAMES.index(name)) & (cleaned > above) & (cleaned < below)
        cleaned[wrong] = factor * cleaned[wrong] + offset
    low, high = (np.array([getattr(variable, end) for variable in VARIABLES]) for end in ("low", "high"))
    cleaned[(cleaned < low[variables]) | (cleaned > high[variables])] = np.nan
    return cleaned
