//! What channels cost while nothing happens, as tables.

use super::{grid, paragraph};
use crate::record::Row;

/// The section, if there are figures.
pub(super) fn section(rows: &[Row]) -> String {
    let mut text = String::new();
    let waiting: Vec<_> = rows.iter().filter_map(|row| Some((row, row.idle.as_ref()?))).collect();
    if !waiting.is_empty() {
        text += "<h2>What waiting costs</h2>\n";
        text += &paragraph(
            "A receiver waits and nothing comes: processor time of its process and how often that was woken \
             up, each second.",
        );
        let lines = waiting.iter().map(|(row, idle)| {
            vec![
                Some(row.transport.to_string()),
                row.wait.as_ref().map(ToString::to_string),
                Some(format!("{:.1} µs", idle.cpu_ns_per_second / 1e3)),
                Some(format!("{:.1}", idle.wakeups_per_second)),
                Some(format!("{:.1} s", idle.watched_s)),
            ]
        });
        text += &grid(&["channel", "waits", "processor time/s", "wake-ups/s", "watched for"], lines);
    }
    let weighed: Vec<_> = rows.iter().filter_map(|row| Some((row, row.memory.as_ref()?))).collect();
    if !weighed.is_empty() {
        text += "<h2>What a channel takes of memory</h2>\n";
        text += &paragraph(
            "Made with the defaults. The kernel doesn't say what its queues take, and takes it when a message \
             comes; a segment is allocated when it is made. What is mapped of one file by several is in memory \
             once.",
        );
        let kib = |bytes: u64| format!("{} KiB", bytes / 1024);
        let lines = weighed.iter().map(|(row, memory)| {
            vec![
                Some(row.transport.to_string()),
                memory.room_bytes.map(kib),
                memory.file_bytes.map(kib),
                Some(kib(memory.receiver_bytes)),
                Some(kib(memory.sender_bytes)),
            ]
        });
        let head = ["channel", "room", "its file", "more in a receiver", "more in a sender"];
        text += &grid(&head, lines);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::section;
    use crate::{
        record::{Idle, Row},
        spec::Memory,
    };

    #[test]
    fn each_channel_has_a_line_and_what_isnt_known_is_empty() {
        let idle = Idle { watched_s: 0.5, cpu_ns_per_second: 12_340.0, wakeups_per_second: 4.0 };
        let memory = Memory { room_bytes: Some(81_920), receiver_bytes: 4096, ..Memory::default() };
        let rows = [
            Row { transport: "mq".into(), wait: Some("block".into()), idle: Some(idle), ..Row::default() },
            Row { transport: "mq".into(), memory: Some(memory), ..Row::default() },
        ];
        let page = section(&rows);
        assert!(
            page.contains("<td>mq</td><td>block</td><td>12.3 µs</td><td>4.0</td><td>0.5 s</td>"),
            "{page}"
        );
        assert!(page.contains("<td>mq</td><td>80 KiB</td><td></td><td>4 KiB</td><td>0 KiB</td>"), "{page}");
        assert_eq!(section(&[]), "");
    }
}
