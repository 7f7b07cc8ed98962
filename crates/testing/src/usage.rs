//! The state, the memory and the processor time of a process, from `/proc`.

use std::time::Duration;

/// Returns the resident memory in bytes.
pub fn resident(pid: u32) -> u64 {
    size(pid, "status", "VmRSS:")
}

/// Returns the anonymous memory in bytes: not the pages of the program's file, which are loaded as
/// they are used and which the system reclaims.
pub fn anonymous(pid: u32) -> u64 {
    size(pid, "smaps_rollup", "Anonymous:")
}

/// Returns the processor time so far; the kernel counts in hundredths of a second.
pub fn processor_time(pid: u32) -> Duration {
    let stat = read(pid, "stat");
    let ticks = |field| stat_field(&stat, field).parse::<u64>().expect("a number");
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

/// Returns the letter of the state, such as `T` of a process that is stopped by a signal.
pub(crate) fn state(pid: u32) -> char {
    stat_field(&read(pid, "stat"), 0).chars().next().expect("a state")
}

/// Returns a field of `stat`, counted from the one after the name of the program.
fn stat_field(stat: &str, field: usize) -> &str {
    let (_, fields) = stat.rsplit_once(") ").expect("a name");
    fields.split(' ').nth(field).expect("the field")
}

/// Returns the size on the line that begins with this name.
fn size(pid: u32, file: &str, name: &str) -> u64 {
    let text = read(pid, file);
    let line = text.lines().find_map(|line| line.strip_prefix(name)).expect("the line");
    line.trim().strip_suffix(" kB").expect("kilobytes").parse::<u64>().expect("a size") << 10
}

fn read(pid: u32, file: &str) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/{file}")).expect("the process exists")
}
