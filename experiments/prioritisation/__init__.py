"""Does a network sort common patterns before rare ones, and does what its neurons do with a sample tell a wrong label?

Trains a perceptron on data with planted patterns of 1, 4, 16 ... samples (a class turned by a quarter, or tinted), and
on data with wrong labels. Of every sample it follows, neuron by neuron, whether it is on the side of the neuron's range
where its derivative wants it, when that is so for good, and whether its weight updates agree with the others'. Beside
these: area under the margin, forgetting events, first-learned epoch, EL2N and GraNd. Writes prioritisation.nc,
claims.json and figures. Parts that were computed are kept, and a stopped run goes on.
"""
