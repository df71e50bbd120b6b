"""All faults by name, in the order of the table."""

from __future__ import annotations

from tests.chaos import attacks, certificates, clocks, cuts, faults, limits, lines, points, power, versions

FAULTS: dict[str, type[faults.Fault]] = {
    fault.name: fault
    for fault in (
        faults.KillLeader,
        faults.KillFollower,
        faults.KillTwo,
        faults.KillAll,
        faults.FreezeLeader,
        faults.FreezeFollower,
        faults.LostDisk,
        faults.FlipSnapshot,
        faults.FlipLogMiddle,
        faults.FlipLogEnd,
        faults.DiskFull,
        faults.DiskError,
        faults.RollingRestart,
        faults.ReplaceNode,
        clocks.ClockAhead,
        clocks.ClockBehind,
        lines.BadLines,
        lines.CorruptPeers,
        lines.CorruptClients,
        power.PowerLoss,
        power.PowerLossTorn,
        power.PowerLossAll,
        power.PowerLossAllTorn,
        power.UnsyncedThenPowerLoss,
        power.SlowDisk,
        power.SlowLeaderDisk,
        power.SyncFails,
        power.LyingDisk,
        points.Panic,
        points.Sleep,
        limits.FewDescriptors,
        limits.LittleMemory,
        limits.SlowNode,
        attacks.Attacked,
        certificates.ExpiredCertificate,
        versions.RollingUpgrade,
        versions.RollingDowngrade,
        cuts.CutLeader,
        cuts.CutFollower,
        cuts.CutAll,
        cuts.CutPeers,
        cuts.CutClients,
        cuts.LeaderDeaf,
        cuts.LeaderMute,
        cuts.CutOneLink,
        cuts.Flapping,
        cuts.Slow,
        cuts.Netem,
    )
}
