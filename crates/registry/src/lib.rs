//! Moves images between a store and a registry, a layout or an archive; index synthesis.
