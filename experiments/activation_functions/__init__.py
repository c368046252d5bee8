"""Does an activation function made for partitions learn better than the usual ones?

The partition unit gives the sign of a pre-activation, normalised by its median over the batch. Backward it is a local
logistic classifier: with g the upstream derivative and c = -sign(g) the side that a sample should be on, what goes on
is g sigmoid((1 - c u) / beta): samples that are on their side already are let go. It is compared with usual functions,
with straight-through estimators, and with gates that look at the distance alone or do the opposite, each with and
without the median; learning rates are chosen on held-out samples. Measured: accuracy, how fast categories separate,
what windows of a neuron's range tell, two-value quantization, and noisy images. Writes activation_functions.nc,
claims.json and figures. Parts that were computed are kept, and a stopped run goes on.
"""
