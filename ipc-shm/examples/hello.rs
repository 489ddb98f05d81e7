//! Two processes in ten lines: run it with `send` in one terminal and without in another.
use ipc_shm::{Receiver, Sender};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    match std::env::args().nth(1).as_deref() {
        Some("send") => ipc_shm::sender("hello")?.send(b"hello from another process")?,
        _ => println!("{}", String::from_utf8_lossy(&ipc_shm::receiver("hello")?.recv()?)),
    }
    Ok(())
}
