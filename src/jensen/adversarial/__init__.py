"""GANs as divergences and as games: margin losses, critics, penalties, stability."""
