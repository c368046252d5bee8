"""What the experiments on the paper's open questions share: a network with factors, all seeds in one program, claims."""
