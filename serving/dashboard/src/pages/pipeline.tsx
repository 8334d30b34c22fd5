/** How the platform itself is: how far behind, how fresh, what came in, what was turned away, how long batches take. */
import { age, bytes, compact, integer, milliseconds, percent } from "../format";
import { t, word } from "../language";
import { useStatus } from "../questions";
import { go, route } from "../route";
import { axis, fold, plus, seconds, type Column } from "../series";
import { useStore } from "../store";
import type { Batch, Failed, Status, StoreState, TableState, Topic } from "../types";
import { Chart, useDrawn, type Line } from "../ui/chart";
import { Icon } from "../ui/icon";
import { Nothing, Panel } from "../ui/panel";
import { Ago, Badge, Scroll, Segments, Spark, type Tone } from "../ui/parts";

/** Seconds; the contracts' freshness objectives are the rules, these only colour. */
const SLOW_S = 60;
const STEPS = 60;

export function lagOf(topic: Topic): number | null {
  return topic.lag_seconds;
}

function failed(of: object): of is Failed {
  return typeof (of as Partial<Failed>).error === "string" && Object.keys(of).length === 1;
}

export function Pipeline() {
  const status = useStatus();
  const topics = Object.keys(status.data?.topics ?? {});
  const asked = useStore(route).params.get("topic");
  const topic = topics.find((one) => one === asked) ?? topics[0] ?? null;
  const choice = topic !== null && (
    <Segments
      name="topic"
      label={t("pipeline.topic")}
      value={topic}
      choose={(chosen) => go({ topic: chosen })}
      of={topics.map((value) => ({ value, label: value }))}
    />
  );
  const batches = (data: Status) => (Array.isArray(data.batches) ? data.batches.filter((one) => one.topic === topic) : []);
  return (
    <>
      <Panel title={t("pipeline.topics")} note={t("pipeline.topicsNote")} class="full" query={status}>
        {(data) => <Topics of={data} />}
      </Panel>
      <Panel
        title={t("pipeline.rows", { topic: topic ?? "…" })}
        note={t("pipeline.batchesNote")}
        class="half"
        query={status}
        empty={(data) => !failed(data.batches) && batches(data).length === 0}
        emptyText={t("pipeline.noBatches")}
        tools={choice}
      >
        {(data) => (failed(data.batches) ? <Cannot of={data.batches} /> : <Rows of={batches(data)} />)}
      </Panel>
      <Panel
        title={t("pipeline.times", { topic: topic ?? "…" })}
        note={t("pipeline.timesNote")}
        class="half"
        query={status}
        empty={(data) => !failed(data.batches) && batches(data).length === 0}
        emptyText={t("pipeline.noBatches")}
      >
        {(data) => (failed(data.batches) ? <Cannot of={data.batches} /> : <Times of={batches(data)} />)}
      </Panel>
      <Panel title={t("pipeline.tables")} note={t("pipeline.tablesNote")} class="wide" size="l" query={status}>
        {(data) => (failed(data.tables) ? <Cannot of={data.tables} /> : <Tables of={data.tables} />)}
      </Panel>
      <Panel title={t("pipeline.stores")} note={t("pipeline.storesNote")} class="narrow" query={status}>
        {(data) => <Stores of={data.stores} />}
      </Panel>
    </>
  );
}

function Cannot({ of }: { of: Failed }) {
  return (
    <div class="state trouble" role="alert">
      <Icon name="warning" size={20} />
      <p>
        <strong>{t("pipeline.cannot")}</strong>
      </p>
      <p class="detail">{of.error}</p>
    </div>
  );
}

function Topics({ of }: { of: Status }) {
  const names = Object.keys(of.topics);
  const all: readonly Batch[] = Array.isArray(of.batches) ? of.batches : [];
  const errors = [...new Set(names.map((name) => of.topics[name]!.error).filter((one) => one !== undefined))];
  return (
    <>
      {errors.map((error) => (
        <p key={error} class="notice" role="alert">
          <Icon name="warning" size={14} />
          <span>{error}</span>
        </p>
      ))}
      <Scroll label={t("pipeline.topics")}>
        <table class="rows">
          <thead>
            <tr>
              <th scope="col">{t("pipeline.topic")}</th>
              <th scope="col" class="n">
                {t("pipeline.lag")}
              </th>
              <th scope="col" class="n">
                {t("pipeline.waiting")}
              </th>
              <th scope="col" class="n">
                {t("pipeline.cut")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.in")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.valid")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.quarantined")}
              </th>
              <th scope="col" class="n opt">
                {t("pipeline.duplicates")}
              </th>
              <th scope="col" class="n">
                {t("pipeline.p50")}
              </th>
              <th scope="col" class="spark-cell opt">
                {t("pipeline.shape")}
              </th>
            </tr>
          </thead>
          <tbody>
            {names.map((name) => (
              <TopicRow key={name} name={name} facts={of.topics[name]!} batches={all.filter((one) => one.topic === name)} />
            ))}
          </tbody>
        </table>
      </Scroll>
    </>
  );
}

function TopicRow({ name, facts, batches }: { name: string; facts: Topic; batches: readonly Batch[] }) {
  const sum = (value: (batch: Batch) => number) => batches.map(value).reduce(plus, 0);
  const records = sum((one) => one.records);
  const turned = sum((one) => one.quarantined);
  const lag = lagOf(facts);
  const took = batches.map((one) => one.batch_ms).filter((ms) => ms !== null);
  return (
    <tr>
      <th scope="row">{name}</th>
      <td class={lag !== null && lag > SLOW_S ? "n warn" : "n"}>{age(lag)}</td>
      <td class="n">{integer(facts.lag_records)}</td>
      <td class="n">
        <Ago at={facts.last_cut_at} />
      </td>
      <td class="n opt">{integer(records)}</td>
      <td class="n opt">{integer(sum((one) => one.valid))}</td>
      <td class="n opt">
        {integer(turned)} {records > 0 && <small>{percent(turned / records)}</small>}
      </td>
      <td class="n opt">{integer(sum((one) => one.duplicates))}</td>
      <td class="n">{milliseconds(median(took))}</td>
      <td class="spark-cell opt">
        <Spark values={took} />
      </td>
    </tr>
  );
}

function median(of: readonly number[]): number | null {
  if (of.length === 0) return null;
  const sorted = [...of].sort((a, b) => a - b);
  const half = Math.floor(sorted.length / 2);
  return sorted.length % 2 ? sorted[half]! : (sorted[half - 1]! + sorted[half]!) / 2;
}

/** Batches come when there is something to do: they are put into equal steps between the first and the last. */
function steps(of: readonly Batch[]) {
  const at = of.map((one) => Date.parse(one.committed_at));
  const first = Math.min(...at);
  const last = Math.max(...at);
  const step = Math.max(Math.ceil((last - first) / STEPS / 1000) * 1000, 1000);
  const on = axis(first, Math.max(last + 1, first + 10 * step), step);
  return { on, xs: seconds(on), from: on.start, to: on.start + on.length * on.step };
}

const time = (batch: Batch) => batch.committed_at;

function Rows({ of }: { of: readonly Batch[] }) {
  const drawn = useDrawn(() => {
    const { on, ...rest } = steps(of);
    const part = (value: (batch: Batch) => number) => fold(on, of, time, value, plus);
    const valid = part((one) => one.valid);
    const turned = part((one) => one.quarantined);
    const again = part((one) => one.duplicates);
    const over = (a: Column, b: Column) => a.map((n, i) => (n === null ? null : n + (b[i] ?? 0)));
    // The highest first: what is drawn later stands in front of it.
    const lines: Line[] = [
      { label: t("pipeline.duplicates"), values: over(over(valid, turned), again), said: again, kind: "bars", tone: "muted" },
      { label: t("pipeline.quarantined"), values: over(valid, turned), said: turned, kind: "bars", tone: "warn" },
      { label: t("pipeline.valid"), values: valid, kind: "bars", tone: "accent" },
    ];
    return { ...rest, lines };
  }, [of.map((one) => one.seq).join(), of[0]?.topic]);
  return <Chart title={t("pipeline.rows", { topic: of[0]?.topic ?? "" })} {...drawn} write={compact} height={190} zoom={false} together="batches" />;
}

function Times({ of }: { of: readonly Batch[] }) {
  const drawn = useDrawn(() => {
    const { on, ...rest } = steps(of);
    const values = fold(on, of, time, (one) => one.batch_ms, Math.max);
    const lines: Line[] = [{ label: t("pipeline.batchTime"), values, kind: "bars", tone: "accent2" }];
    return { ...rest, lines };
  }, [of.map((one) => one.seq).join(), of[0]?.topic]);
  return <Chart title={t("pipeline.times", { topic: of[0]?.topic ?? "" })} {...drawn} write={milliseconds} height={190} zoom={false} together="batches" />;
}

const LAYERS = ["gold", "silver", "bronze", "ops"];

function Tables({ of }: { of: Record<string, TableState | Failed> }) {
  const layer = (name: string) => name.split(".")[0] ?? "";
  const names = Object.keys(of).sort(
    (a, b) => LAYERS.indexOf(layer(a)) - LAYERS.indexOf(layer(b)) || a.localeCompare(b),
  );
  if (names.length === 0) return <Nothing text={t("pipeline.noTables")} />;
  return (
    <Scroll label={t("pipeline.tables")}>
      <table class="rows">
        <thead>
          <tr>
            <th scope="col">{t("pipeline.table")}</th>
            <th scope="col" class="n">
              {t("pipeline.age")}
            </th>
            <th scope="col" class="n">
              {t("pipeline.rowCount")}
            </th>
            <th scope="col" class="n opt">
              {t("pipeline.version")}
            </th>
            <th scope="col" class="n opt">
              {t("pipeline.size")}
            </th>
            <th scope="col" class="n opt">
              {t("pipeline.files")}
            </th>
          </tr>
        </thead>
        <tbody>
          {names.map((name) => {
            const facts = of[name]!;
            return (
              <tr key={name}>
                <th scope="row" class="mono">
                  {name}
                </th>
                {failed(facts) ? (
                  <td colSpan={5} class="bad">
                    {facts.error}
                  </td>
                ) : (
                  <>
                    <td class="n">
                      <Ago at={facts.committed_at} />
                    </td>
                    <td class="n">{integer(facts.rows)}</td>
                    <td class="n opt">{integer(facts.version)}</td>
                    <td class="n opt">{bytes(facts.bytes)}</td>
                    <td class="n opt">{integer(facts.files)}</td>
                  </>
                )}
              </tr>
            );
          })}
        </tbody>
      </table>
    </Scroll>
  );
}

function Stores({ of }: { of: Record<string, StoreState> }) {
  const names = Object.keys(of);
  if (names.length === 0) return <Nothing text={t("pipeline.noStores")} />;
  return (
    <ul class="stores">
      {names.map((name) => {
        const facts = of[name]!;
        const [tone, state] = stateOf(facts);
        return (
          <li key={name}>
            <div class="store-head">
              <strong>{word("store", name)}</strong>
              <Badge tone={tone}>{state}</Badge>
            </div>
            {facts.error && <p class="detail">{facts.error}</p>}
            {facts.reachable && facts.behind && facts.behind.length > 0 && (
              <details>
                <summary>{t("pipeline.lacks", { n: facts.behind.length })}</summary>
                <ul>
                  {facts.behind.map((gap) => (
                    <li key={gap}>{gap}</li>
                  ))}
                </ul>
              </details>
            )}
          </li>
        );
      })}
    </ul>
  );
}

function stateOf({ reachable, behind_seconds: behind }: StoreState): [Tone, string] {
  if (!reachable) return ["bad", t("pipeline.away")];
  if (behind === null) return ["muted", t("pipeline.unknown")];
  if (behind <= SLOW_S) return ["good", behind < 1 ? t("pipeline.upToDate") : t("pipeline.behind", { age: age(behind) })];
  return ["warn", t("pipeline.behind", { age: age(behind) })];
}

