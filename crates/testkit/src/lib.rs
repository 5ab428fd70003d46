//! Tars, images, a faulty disk and a registry for tests (dev-dependency only).
