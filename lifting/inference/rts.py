"""The Rauch-Tung-Striebel smoother (1965) for many independent coordinates at once."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_FIRST_VARIANCE = (4.0, 25.0)  # of a position (m^2) and a velocity (m^2/s^2) before the first measurement


def rts(y: Array, r: Array, q: Array, dt: float) -> tuple[Array, Array]:
    """The Rauch-Tung-Striebel smoother of N independent coordinates with position and velocity as state.

    From one frame to the next x += v dt, with the noise of white acceleration of power q,
    Q = q [[dt^3/3, dt^2/2], [dt^2/2, dt]]; a measurement is y = x + noise of variance r.

    Args:
        y: (T, N) metres, NaN for no measurement.
        r: (T, N) m^2, above zero.
        q: (T, N) m^2/s^3; row k is for the step from frame k - 1 to k.
        dt: seconds from frame to frame.

    Returns:
        the smoothed positions and their variance, (T, N) both. Equal to the mean and variance of the Gaussian
        distribution of all positions given all measurements.
    """
    T, N = y.shape
    there = np.isfinite(y)
    y, weight = np.where(there, y, 0), np.where(there, 1.0, 0.0)
    first = y[np.argmax(there, axis=0), np.arange(N)]
    x, v = first, np.zeros(N)
    a, b, c = np.full(N, _FIRST_VARIANCE[0]), np.zeros(N), np.full(N, _FIRST_VARIANCE[1])  # [[a, b], [b, c]]
    ahead, now = np.empty((T, 5, N)), np.empty((T, 5, N))  # x, v, a, b, c: before and after the measurement
    for k in range(T):
        if k:
            x, a = x + dt * v, a + dt * (2 * b + dt * c) + q[k] * (dt**3 / 3)
            b, c = b + dt * c + q[k] * (dt**2 / 2), c + q[k] * dt
        ahead[k] = x, v, a, b, c
        gain = weight[k] / (a + r[k])
        off = gain * (y[k] - x)
        x, v = x + a * off, v + b * off
        a, b, c = a - a * a * gain, b - a * b * gain, c - b * b * gain
        now[k] = x, v, a, b, c
    mean, variance = np.empty((T, N)), np.empty((T, N))
    X, V, A, B, C = now[-1]
    mean[-1], variance[-1] = X, A
    for k in range(T - 2, -1, -1):
        X, V, A, B, C = _step_back(now[k], ahead[k + 1], (X, V, A, B, C), dt)
        mean[k], variance[k] = X, A
    return mean, variance


def _step_back(now: Array, ahead: Array, later: tuple[Array, ...], dt: float) -> tuple[Array, ...]:
    """The filtered state of a frame plus G (smoothed - predicted) of the next frame, where G = P F^T P_ahead^-1."""
    x, v, a, b, c = now
    ax, av, aa, ab, ac = ahead
    X, V, A, B, C = later
    left, right = a + dt * b, b + dt * c  # P F^T = [[left, b], [right, c]]
    det = aa * ac - ab * ab
    g11, g12 = (left * ac - b * ab) / det, (b * aa - left * ab) / det
    g21, g22 = (right * ac - c * ab) / det, (c * aa - right * ab) / det
    dx, dv, dA, dB, dC = X - ax, V - av, A - aa, B - ab, C - ac
    return (
        x + g11 * dx + g12 * dv,
        v + g21 * dx + g22 * dv,
        a + g11 * g11 * dA + 2 * g11 * g12 * dB + g12 * g12 * dC,
        b + g11 * g21 * dA + (g11 * g22 + g12 * g21) * dB + g12 * g22 * dC,
        c + g21 * g21 * dA + 2 * g21 * g22 * dB + g22 * g22 * dC,
    )
