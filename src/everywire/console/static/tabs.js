// Several tabs of this page share the browser's six connections, and three are held by each. So when one comes
// to the front, those in the background let go, and go on from their positions when they are looked at again.

const RESTING = "Resting: another tab of this page needs the browser’s connections.";

export function shareConnections(readers) {
  const tabs = new BroadcastChannel("everywire-race");
  let resting = [];
  tabs.addEventListener("message", () => {
    if (!document.hidden) return;
    resting = [...resting, ...readers.filter((reader) => reader.isRunning)];
    resting.forEach((reader) => reader.pause(RESTING));
  });
  const come = () => {
    if (document.hidden) return;
    tabs.postMessage("in front");
    for (const reader of resting) if (reader.detail === RESTING) reader.start();
    resting = [];
  };
  document.addEventListener("visibilitychange", come);
  come();
}
