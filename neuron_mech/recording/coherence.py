"""Do the samples of a batch pull a neuron's weights the same way? Without any sample's own weight gradient.

With h_i the inputs of a layer and d_ij the derivative of sample i's loss with respect to neuron j's pre-activation, a
sample's gradient of the neuron's weights is d_ij h_i: it has rank one. So all that follows needs one matrix product,
H^T d, and the lengths of the h_i. A bias counts as an input that is always 1: append it to `inputs`.
"""

from jaxtyping import Array, Bool, Float

Inputs = Float[Array, "samples inputs"]
Derivatives = Float[Array, "samples neurons"]


def coherence(inputs: Inputs, derivatives: Derivatives) -> Float[Array, " neurons"]:
    """alpha_j = |sum_i d_ij h_i|^2 / (n sum_i d_ij^2 |h_i|^2), in [0, 1].

    1 where all samples pull the same way equally hard, 1/n where they pull at right angles, 0 where they cancel. NaN
    for a neuron that no sample pulls.
    """
    total = inputs.T @ derivatives
    lengths = (inputs**2).sum(1)
    return (total**2).sum(0) / (len(inputs) * (derivatives**2 * lengths[:, None]).sum(0))


def agrees(inputs: Inputs, derivatives: Derivatives) -> Bool[Array, "samples neurons"]:
    """Whether a sample's gradient of a neuron's weights points the way of the sum of the other samples'.

    d_ij (h_i . sum_k d_kj h_k) - d_ij^2 |h_i|^2 > 0: a positive scalar product with what the others sum up to.
    """
    along = derivatives * (inputs @ (inputs.T @ derivatives))
    return along > derivatives**2 * (inputs**2).sum(1)[:, None]
