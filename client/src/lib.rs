//! Opens replicated images.
