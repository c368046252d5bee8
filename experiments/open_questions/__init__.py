"""What the experiments on the paper's open questions share: a network, all seeds in one program, claims."""
