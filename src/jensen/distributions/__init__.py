"""What `torch.distributions` lacks, and modules that return distributions."""
