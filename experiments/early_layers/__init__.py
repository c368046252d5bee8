"""Is what early layers receive noise, or is there a signal in it, and does learning need its changes?

Trains a deep perceptron of several seeds, records the signs of every training sample's derivative at every layer, and
splits the average sign's variance into noise, a constant part and drift. Then trains the same networks again with the
signs frozen: backward, each derivative keeps its size and takes the sign that its sample and neuron had most often in
the first run, in its first epoch, in another seed's run, with samples shuffled, or of its class at initialisation. Also
with several dropout masks a step, with signs turned at random, and with one factor of the network changed at a time.
Writes early_layers.nc, claims.json and figures. Parts that were computed are kept, and a stopped run goes on.
"""
