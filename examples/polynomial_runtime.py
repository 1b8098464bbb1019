"""A runtime for polynomials: the model file is a JSON list of coefficients, highest power first."""

import json

import numpy as np

from runtime_adapters import base


class PolynomialRuntime(base.Runtime):
    name = "polynomial"

    def load(self, source: base.ModelSource) -> base.Model:
        coefficients = json.loads(source.only_file(".json").read_text())
        if not coefficients:
            raise base.BadModel("a polynomial needs coefficients")
        return Polynomial(np.array(coefficients, np.float64))


class Polynomial(base.Model):
    inputs = (base.TensorSpec("x", "FP64", (-1,)),)
    outputs = (base.TensorSpec("y", "FP64", (-1,)),)
    rows_independent = True

    def __init__(self, coefficients: np.ndarray) -> None:
        self._coefficients = coefficients

    def predict(self, inputs: base.Inputs) -> dict[str, np.ndarray]:
        x = inputs.first
        if x.dtype.kind not in "iuf":
            raise base.BadInput("x must be numbers")
        return {"y": np.polyval(self._coefficients, x)}
