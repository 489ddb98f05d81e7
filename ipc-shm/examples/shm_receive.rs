//! Waits for a message and prints it.
use ipc_shm::Receiver;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut rx = ipc_shm::receiver("greetings")?;
    println!("{}", String::from_utf8_lossy(&rx.recv()?));
    Ok(())
}
