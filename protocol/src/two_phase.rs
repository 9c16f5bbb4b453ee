//! two_phase
