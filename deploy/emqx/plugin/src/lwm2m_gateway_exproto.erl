%% Brings about EMQX's exproto gateway: the part of it that the program prints as `emqx-config`. It changes nothing that
%% is right already, and never takes it away: the configuration belongs to the whole cluster, and a stop of this plugin
%% may be the end of one node.
-module(lwm2m_gateway_exproto).
-behaviour(gen_server).

-export([start_link/0, serving/1, status/0]).
-export([init/1, handle_continue/2, handle_call/3, handle_cast/2, handle_info/2]).

-define(FIRST_PAUSE, 1_000).
-define(LONGEST_PAUSE, 30_000).

-record(state, {
    %% off: nothing to do; configured; or what went wrong last.
    result = off :: off | configured | {failed, binary()},
    pause = ?FIRST_PAUSE :: pos_integer(),
    timer = none :: none | reference()
}).

start_link() ->
    gen_server:start_link({local, ?MODULE}, ?MODULE, [], []).

%% Tells that the program serves devices, so that its handler listens: EMQX logs an error for each call of a handler
%% that is not there. `IsWanted` says whether exproto is to be configured.
serving(IsWanted) ->
    gen_server:cast(?MODULE, {serving, IsWanted}).

%% Returns `off`, `configured` or `{failed, Reason}`.
status() ->
    try
        gen_server:call(?MODULE, status)
    catch
        exit:_ -> off
    end.

init([]) ->
    {ok, #state{}, {continue, look}}.

%% After a fault of this process the program may be serving already.
handle_continue(look, State) ->
    case lwm2m_gateway_program:status() of
        #{state := serving, exproto := IsWanted} -> handle_cast({serving, IsWanted}, State);
        _ -> {noreply, State}
    end.

handle_call(status, _From, State) ->
    {reply, State#state.result, State}.

handle_cast({serving, true}, State) ->
    {noreply, ensure(State#state{pause = ?FIRST_PAUSE})};
handle_cast({serving, false}, State) ->
    {noreply, State#state{result = off, timer = none}}.

handle_info({timeout, Timer, ensure}, #state{timer = Timer} = State) ->
    {noreply, ensure(State)};
handle_info(_Late, State) ->
    {noreply, State}.

ensure(#state{pause = Pause} = State) ->
    case configure() of
        ok ->
            State#state{result = configured, timer = none, pause = ?FIRST_PAUSE};
        {error, Reason} ->
            Text = unicode:characters_to_binary(Reason),
            logger:warning(#{msg => lwm2m_gateway_exproto_not_configured, reason => Text, next_try_ms => Pause}),
            Timer = erlang:start_timer(Pause, self(), ensure),
            State#state{result = {failed, Text}, timer = Timer, pause = min(2 * Pause, ?LONGEST_PAUSE)}
    end.

configure() ->
    try
        case lwm2m_gateway_program:emqx_config() of
            {0, Text} -> apply_wanted(wanted(Text));
            {_, Output} -> {error, ["emqx-config: ", Output]}
        end
    catch
        Class:Reason -> {error, io_lib:format("~p: ~0p", [Class, Reason])}
    end.

wanted(Text) ->
    {ok, #{<<"gateway">> := #{<<"exproto">> := Wanted}}} = hocon:binary(Text, #{format => map}),
    Wanted.

apply_wanted(Wanted) ->
    case emqx:get_raw_config([gateway, exproto], undefined) of
        undefined -> loaded(emqx_gateway_conf:load_gateway(<<"exproto">>, for_load(Wanted)));
        Present -> change(Present, Wanted)
    end.

loaded({ok, _}) -> ok;
loaded({error, Reason}) -> {error, io_lib:format("~0p", [Reason])}.

%% One change of the whole section restarts exproto once; it is made only where something differs.
change(Present, Wanted) ->
    Merged = merge(Present, ours(Wanted)),
    case same(Present, Merged) of
        true ->
            ok;
        false ->
            All = emqx:get_raw_config([gateway], #{}),
            Options = #{override_to => cluster, rawconf_with_defaults => true},
            loaded(emqx_conf:update([gateway], All#{<<"exproto">> => Merged}, Options))
    end.

%% Whether the gateway is enabled, who is let in and other listeners are the operator's affair.
ours(Wanted) ->
    #{<<"server">> := Server, <<"handler">> := Handler, <<"listeners">> := Listeners} = Wanted,
    #{<<"server">> => Server, <<"handler">> => Handler, <<"listeners">> => Listeners}.

merge(Present, Wanted) when is_map(Present), is_map(Wanted) ->
    maps:fold(fun(Key, Value, All) -> All#{Key => merge(maps:get(Key, All, none), Value)} end, Present, Wanted);
merge(_, Wanted) ->
    Wanted.

same(A, B) when is_map(A), is_map(B) ->
    maps:keys(A) =:= maps:keys(B) andalso lists:all(fun(Key) -> same(maps:get(Key, A), maps:get(Key, B)) end, maps:keys(A));
same(A, B) ->
    text(A) =:= text(B).

%% EMQX keeps `7993`, `"7993"` and `127.0.0.1:7993` as they were written.
text(Value) when is_binary(Value) -> Value;
text(Value) -> iolist_to_binary(io_lib:format("~0p", [Value])).

%% load_gateway takes a list of listeners, each with its type and name.
for_load(#{<<"listeners">> := Listeners} = Wanted) ->
    List = [
        Listener#{<<"type">> => Type, <<"name">> => Name}
     || {Type, Named} <- maps:to_list(Listeners), {Name, Listener} <- maps:to_list(Named)
    ],
    Wanted#{<<"listeners">> := List}.
