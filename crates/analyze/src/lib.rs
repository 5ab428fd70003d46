//! Turns accesses (recorded, listed, predicted, observed) into a per-layer read order.
