//! Rewrites an image by converting its layers; the seam where converters plug in.
